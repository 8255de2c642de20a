"""Bad input: three lines that name what is wrong, why and what to do; the right exit code; nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]
USAGE, INPUT, ENVIRONMENT = 2, 3, 5
TRAINED: Final = "[train]\nepochs = 3\nbatch_size = 16\n"
RETURN: Final = "return images[:, np.newaxis].astype(np.float32), labels"
MODEL, DATA, RECIPE = "stripes_model.py", "stripes_data.py", "recipe.toml"

EDITS: Final = {
    "unknown key": (
        RECIPE,
        "epochs = 1",
        "epochs = 1\ntemprature = 2",
        ["distill.temprature: there is no such key", "'temperature'"],
    ),
    "unknown section": (RECIPE, "[prune]", "[prun]", ["prun: there is no such key", "'prune'"]),
    "wrong type": (RECIPE, "epochs = 3", 'epochs = "three"', ["train.epochs: 'three' is not valid", "integer"]),
    "out of range": (RECIPE, "ratio = 0.5", "ratio = 1.5", ["prune.ratio: 1.5 is not valid", "less than 1"]),
    "not TOML": (RECIPE, "[prune]", "[prune", ["is not TOML", "line 14"]),
    "missing factory": (
        RECIPE,
        ":stripes_net",
        ":stripe_net",
        ["model.factory: stripes_model.py has no function 'stripe_net'", "'stripes_net'"],
    ),
    "missing model file": (RECIPE, "stripes_model.py", "nosuch.py", ["model.factory: cannot read", "nosuch.py"]),
    "factory that raises": (
        MODEL,
        "return StripesNet(width)",
        "raise ValueError('no luck')",
        ["model.factory", "ValueError", "stripes_model.py:33: no luck"],
    ),
    "factory that returns no module": (
        MODEL,
        "return StripesNet(width)",
        "return width",
        ["model.factory", "returned int", "torch.nn.Module"],
    ),
    "model file that is not Python": (
        MODEL,
        "return StripesNet(width)",
        "return (",
        ["stripes_model.py is not Python", "line 33"],
    ),
    "missing library": (
        MODEL,
        "import torch\n",
        "import torch\nimport nosuchlibrary\n",
        ["ModuleNotFoundError", "stripes_model.py:6", "install 'nosuchlibrary'"],
    ),
    "zero samples": (DATA, "samples: int = 192", "samples: int = 0", ["split 'train' has no samples"]),
    "labels out of range": (
        DATA,
        RETURN,
        RETURN + " + 1",
        ["split 'train' has the label 3", "labels are 0 to 2", "`labels - 1`"],
    ),
    "negative labels": (DATA, RETURN, RETURN + " - 1", ["split 'train' has the label -1", "class numbers start at 0"]),
    "NaN data": (
        DATA,
        "    return images[",
        "    images[5] = np.nan\n    return images[",
        ["train.inputs has NaN or Inf", "the first is number 5"],
    ),
    "other arguments": (
        RECIPE,
        "[train]",
        "args = { sampls = 3 }\n\n[train]",
        ["data.factory", "unexpected keyword argument 'sampls'", "data.args"],
    ),
    "a branch on values": (
        MODEL,
        "        inner =",
        "        if x.mean() > 0:\n            x = x + 1\n        inner =",
        ["the model cannot be traced", "stripes_model.py:26", "torch.where"],
    ),
}


def check_three_lines(done: subprocess.CompletedProcess[str], code: int, expected: list[str]) -> None:
    """The error is three lines, tells all that is expected, and shows no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["error", "  why", "  fix"], done.stderr
    for words in expected:
        assert words in "\n".join(lines), done.stderr


def refused(inline: Run, project: SimpleNamespace, tmp_path: Path, expected: list[str]) -> None:
    """A run ends with exit 3 and three lines; no output folder, and in the store nothing but checked data."""
    out, store = tmp_path / "out", tmp_path / "store"
    check_three_lines(inline("run", project.folder, "--out", out, store=store), INPUT, expected)
    assert not out.exists()
    entries = json.loads(inline("cache", "ls", "--json", store=store).stdout)
    assert [entry["stage"] for entry in entries] in ([], ["data"])


@pytest.mark.parametrize(("file", "old", "new", "expected"), EDITS.values(), ids=EDITS.keys())
def test_bad_project(
    file: str, old: str, new: str, expected: list[str], project: SimpleNamespace, inline: Run, tmp_path: Path
) -> None:
    """Three lines, exit 3; no output folder, and in the store nothing but checked data."""
    project.edit(file, old, new)
    refused(inline, project, tmp_path, expected)


@pytest.fixture
def weights(project: SimpleNamespace) -> dict[str, Any]:
    """Weights that fit, and a recipe that loads them from ``w.safetensors``."""
    from safetensors.torch import save_file

    from pipeline.torchmodel import make_model
    from pipeline.usercode import FactoryRef, find_factory

    factory = find_factory("stripes_model.py:stripes_net", project.folder, {}, "model.factory")
    assert isinstance(factory, FactoryRef)
    state = make_model(factory, 0).state_dict()
    project.edit(RECIPE, TRAINED, "").edit(RECIPE, ':stripes_net"', ':stripes_net"\nweights = "w.safetensors"')
    save_file(state, project.folder / "w.safetensors")
    return state


def _narrow(state: dict[str, Any]) -> None:
    state["conv1.weight"] = state["conv1.weight"][:8].contiguous()


def _poison(state: dict[str, Any]) -> None:
    state["conv1.weight"][3, 1, 0, 2] = float("nan")


def _rename(state: dict[str, Any]) -> None:
    state["haed.bias"] = state.pop("head.bias")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(_narrow, ["'conv1.weight'", "(8, 16, 3, 3)", "(16, 16, 3, 3)"], id="shapes that do not fit"),
        pytest.param(_poison, ["'conv1.weight'", "1 value is NaN", "[3, 1, 0, 2]"], id="NaN"),
        pytest.param(_rename, ["unknown: 'haed.bias'", "'head.bias'"], id="a name that does not fit"),
    ],
)
def test_bad_weights(
    damage: Callable[[dict[str, Any]], None],
    expected: list[str],
    weights: dict[str, Any],
    project: SimpleNamespace,
    inline: Run,
    tmp_path: Path,
) -> None:
    """The error names the weight, and both shapes or the place; nothing of `load` is stored."""
    from safetensors.torch import save_file

    damage(weights)
    save_file(weights, project.folder / "w.safetensors")
    refused(inline, project, tmp_path, expected)


def test_good_weights_are_taken(weights: dict[str, Any], project: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """The same recipe with weights that fit loads and prunes: what the tests above refuse is only the damage."""
    done = inline("prune", project.folder, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["results"]["parameters"] < sum(tensor.numel() for tensor in weights.values())
    assert (tmp_path / "out" / "host" / "prune" / "weights.safetensors").is_file()


def test_missing_weights_name_the_key_that_gives_them(
    weights: dict[str, Any], project: SimpleNamespace, inline: Run
) -> None:
    """The fix is a flag that exists."""
    (project.folder / "w.safetensors").unlink()
    check_three_lines(inline("run", project.folder), INPUT, ["model.weights: cannot read", "--set model.weights=PATH"])


def test_all_faults_are_told_at_once(project: SimpleNamespace, inline: Run) -> None:
    """Two mistakes give two lines, each with its key."""
    project.edit(RECIPE, "ratio = 0.5", "ratio = 2").edit(RECIPE, "epochs = 3", 'epochs = "three"')
    done = inline("run", project.folder)
    assert done.returncode == INPUT
    assert "2 faults" in done.stderr
    assert "prune.ratio" in done.stderr
    assert "train.epochs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        pytest.param(["run"], USAGE, ["Missing argument 'RECIPE'", "edgepress run --help"], id="no recipe"),
        pytest.param(["run", "nosuch.toml"], INPUT, ["cannot read the recipe nosuch.toml"], id="no such file"),
        pytest.param(["run", "/"], INPUT, ["/ holds no recipe.toml", "edgepress init"], id="a folder without a recipe"),
        pytest.param(["rnu"], USAGE, ["'rnu'", "'run'"], id="no such command"),
        pytest.param(["run", "x", "--otu", "y"], USAGE, ["'--otu'", "'--out'"], id="no such option"),
        pytest.param(["verify", "nosuch"], USAGE, ["'nosuch' does not exist"], id="no such bundle"),
        pytest.param(["verify", "/"], INPUT, ["manifest.json", "edgepress run"], id="no bundle"),
        pytest.param(["init"], USAGE, ["--model", "--onnx"], id="init without a model"),
    ],
)
def test_bad_command_line(arguments: list[str], code: int, expected: list[str], inline: Run) -> None:
    """Three lines that name the nearest thing that exists."""
    check_three_lines(inline(*arguments), code, expected)


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        pytest.param(
            ["--target", "raspbery-pi-5"],
            INPUT,
            ["'raspbery-pi-5'", "'raspberry-pi-5'", "targets list"],
            id="no such target",
        ),
        pytest.param(["--target", "nosuch.toml"], INPUT, ["nosuch.toml"], id="no such profile file"),
        pytest.param(["--set", "nonsense"], USAGE, ["--set 'nonsense'", "dotted.key=value"], id="no assignment"),
        pytest.param(["--set", "prune.ratio.x=3"], USAGE, ["'ratio' is no table"], id="a key below a value"),
        pytest.param(["--set", "threads=0"], INPUT, ["threads: 0 is not valid"], id="no threads"),
        pytest.param(["--set", "train.epoch=3"], INPUT, ["train.epoch", "'epochs'"], id="an unknown key"),
    ],
)
def test_bad_options(
    options: list[str], code: int, expected: list[str], project: SimpleNamespace, inline: Run, tmp_path: Path
) -> None:
    """Flags are checked like the files."""
    check_three_lines(inline("run", project.folder, *options, "--out", tmp_path / "out"), code, expected)
    assert not (tmp_path / "out").exists()


def test_own_profile_with_an_unknown_key(project: SimpleNamespace, inline: Run) -> None:
    """A profile is checked like a recipe."""
    import targets

    text = (Path(targets.__file__).parent / "profiles" / "x86-64-avx2.toml").read_text(encoding="utf-8")
    profile = project.folder / "mine.toml"
    profile.write_text(text + "chanel_alignment = 3\n", encoding="utf-8")
    check_three_lines(
        inline("run", project.folder, "--target", profile),
        INPUT,
        ["mine.toml", "chanel_alignment", "channel_alignment"],
    )


@pytest.mark.parametrize("place", ["out", "out/stripes", "out/stripes/host"])
def test_a_file_where_results_must_go(place: str, project: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """It is said before any work, with the path; the file stays."""
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine", encoding="utf-8")
    done = inline("run", project.folder, "--out", tmp_path / "out")
    if done.returncode == USAGE:  # click knows that --out is a folder
        assert "is a file" in done.stderr
    else:
        check_three_lines(done, ENVIRONMENT, [str(tmp_path / "out")])
        assert len(done.stderr.splitlines()) == 3, "no stage ran before it was said"
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write_results(project: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """A folder that may not be written to is exit 5 before any work."""
    (tmp_path / "locked").mkdir(mode=0o500)
    check_three_lines(
        inline("run", project.folder, "--out", tmp_path / "locked" / "out"), ENVIRONMENT, ["Permission denied"]
    )


def private_mounts() -> str:
    """Path of `unshare` where it can give a process mounts of its own."""
    tool = shutil.which("unshare")
    if (
        tool is None
        or subprocess.run(
            [tool, "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no private mounts here (unshare -rm)")
    return tool


def in_private_mount(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a shell script that may mount what it likes."""
    command = [private_mounts(), "-rm", "sh", "-c", script, "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_read_only_results_folder(
    project: SimpleNamespace, tmp_path: Path, edgepress_program: Path, cache: Path
) -> None:
    """A read-only disk is exit 5 before any work, and nothing runs."""
    (tmp_path / "ro").mkdir()
    script = 'mount -t tmpfs -o ro none "$1" && EDGEPRESS_CACHE="$4" "$2" run "$3" --out "$1/out"'
    done = in_private_mount(script, tmp_path / "ro", edgepress_program, project.folder, cache)
    check_three_lines(done, ENVIRONMENT, ["Read-only file system", str(tmp_path / "ro")])
    assert len(done.stderr.splitlines()) == 3


def test_a_full_disk_is_resumable(project: SimpleNamespace, tmp_path: Path, edgepress_program: Path) -> None:
    """With room again the same command goes on where it stopped; the stage that failed left nothing."""
    (tmp_path / "small").mkdir()
    script = """
        mount -t tmpfs -o size=96k none "$1" && export EDGEPRESS_CACHE="$1/cache" || exit 99
        "$2" prune "$3" --set model.args.width=64 --set train.epochs=1; echo "code $?" >&2
        "$2" cache ls; mount -o remount,size=64m "$1"
        exec "$2" prune "$3" --set model.args.width=64 --set train.epochs=1
    """
    done = in_private_mount(script, tmp_path / "small", edgepress_program, project.folder)
    first, _, second = done.stderr.partition("code 5\n")
    assert second, done.stderr
    assert "No space left on device" in first
    assert "EDGEPRESS_CACHE" in first
    assert [line.split()[1] for line in done.stdout.splitlines()[:-1]] == ["data"]
    assert done.returncode == 0, second
    assert second.startswith("data                     reused")
