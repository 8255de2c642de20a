"""Recipes: every fault at once, named where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recipe import load_recipe, recipe_schema
from targets.errors import InputError, UsageError

GOOD = """
task = "classification"
[model]
factory = "net.py:net"
[data]
factory = "data.py:data"
[train]
epochs = 1
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def _error(folder: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_recipe(_write(folder, text))
    assert caught.value.exit_code == 3
    return caught.value


def test_defaults_need_only_model_data_and_task(tmp_path: Path) -> None:
    """Promise: everything else has a sensible default, and the name is the folder's."""
    recipe = load_recipe(_write(tmp_path, GOOD))
    assert recipe.name == tmp_path.name
    assert recipe.targets == ["host"]
    assert recipe.benchmark.budget_s == 60
    assert recipe.prune is None


def test_a_folder_stands_for_its_recipe(tmp_path: Path) -> None:
    """Promise: a folder with a recipe.toml may be given in its place."""
    _write(tmp_path, GOOD)
    assert load_recipe(tmp_path) == load_recipe(tmp_path / "recipe.toml")


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    """Promise: unknown key, wrong type and value out of range come in one error, each with its dotted path."""
    error = _error(tmp_path, GOOD.replace("epochs = 1", 'epochs = "many"') + "[prune]\nratio = 1.5\nratoi = 1\n")
    assert {fault.where for fault in error.faults} == {"train.epochs", "prune.ratio", "prune.ratoi"}


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    """Promise: a misspelt key is answered with the key that exists."""
    error = _error(tmp_path, GOOD + "[prune]\nratio = 0.5\nprotcet = []\n")
    assert error.why.startswith("prune.protcet")
    assert "'protect'" in error.fix
    assert len(str(error).splitlines()) == 3


def test_a_wrong_choice_lists_what_is_allowed(tmp_path: Path) -> None:
    """Promise: a value outside a choice is answered with the choices."""
    error = _error(tmp_path, GOOD.replace('"classification"', '"classify"'))
    assert "'classification'" in error.fix
    assert "'classify'" in error.why


def test_text_that_is_not_toml_names_the_line(tmp_path: Path) -> None:
    """Promise: a syntax error names its line."""
    assert "line 1" in _error(tmp_path, "task = = 1").why


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """Promise: a recipe that is not there is the user's fault, not a traceback."""
    with pytest.raises(InputError, match="cannot read"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('task="classification"\n[model]\nonnx="n.onnx"\n[data]\nnpz="d.npz"\n[prune]\nratio=0.5', "prune"),
        ('task="classification"\n[model]\nonnx="n.onnx"\n[data]\nnpz="d.npz"\n[distill]\nepochs=1', "distill"),
        ('task="classification"\n[model]\nfactory="n.py:f"\n[data]\nnpz="d.npz"', "model.weights"),
        (
            'task="classification"\n[model]\nfactory="n.py:f"\nweights="w.pt"\n[train]\nepochs=1\n[data]\nnpz="d.npz"',
            "model.weights",
        ),
        ('task="classification"\n[model]\n[data]\nnpz="d.npz"', "model"),
        ('task="classification"\n[model]\nonnx="n.onnx"\n[data]', "data"),
        ('task="fidelity"\n[model]\nfactory="n.py:f"\n[train]\nepochs=1\n[data]\nnpz="d.npz"', "train"),
        ('task="classification"\n[model]\nonnx="n.onnx"\n[data]\nnpz="d.npz"\nargs={a=1}', "data.args"),
    ],
)
def test_sections_that_contradict_are_refused(tmp_path: Path, text: str, where: str) -> None:
    """Promise: a recipe whose sections cannot work together is refused before anything runs, with the reason."""
    error = _error(tmp_path, text)
    assert where in {fault.where for fault in error.faults}
    assert all(fault.fix for fault in error.faults)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    """Promise: --set changes one key, in TOML syntax, bare words being strings."""
    path = _write(tmp_path, GOOD)
    recipe = load_recipe(path, ["train.epochs=7", "prune.ratio=0.25", "name=other", "data.files.images=/tmp/x y.npz"])
    assert (recipe.train.epochs, recipe.prune.ratio, recipe.name) == (7, 0.25, "other")  # type: ignore[union-attr]
    assert recipe.data.files["images"] == "/tmp/x y.npz"


@pytest.mark.parametrize("override", ["train", "=1", ".a=1", "task.x=1"])
def test_an_override_that_is_no_assignment_is_a_usage_error(tmp_path: Path, override: str) -> None:
    """Promise: a malformed --set exits with 2 and says what it must look like."""
    with pytest.raises(UsageError):
        load_recipe(_write(tmp_path, GOOD), [override])


def test_relative_paths_start_at_the_recipe(tmp_path: Path) -> None:
    """Promise: a recipe means the same from any working folder."""
    assert load_recipe(_write(tmp_path, GOOD)).resolve("a/b.npz") == tmp_path / "a/b.npz"


def test_the_schema_describes_every_section() -> None:
    """Promise: `edgepress schema recipe` knows every key a recipe may have, and none that it may not."""
    properties = recipe_schema()["properties"]
    assert {"task", "model", "data", "train", "prune", "distill", "quantize", "budget", "benchmark"} <= set(properties)
    assert "folder" not in properties


@pytest.mark.parametrize("example", ["digits", "cifar10"])
def test_the_examples_are_valid(repository: Path, example: str) -> None:
    """Promise: the recipes we ship load; the digits recipe has at most 25 lines."""
    load_recipe(repository / "examples" / example)
    assert len((repository / "examples/digits/recipe.toml").read_text().splitlines()) <= 25


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("model.args.since=2020-01-01", "model.args.since"),
        ("data.args.scales=[1.0, nan]", "data.args.scales.1"),
        ("model.args.a={b = inf}", "model.args.a.b"),
    ],
)
def test_arguments_that_no_key_can_hold_are_refused(tmp_path: Path, override: str, where: str) -> None:
    """Promise: dates, NaN and Inf among factory arguments are the user's fault, by path, however deep."""
    with pytest.raises(InputError) as caught:
        load_recipe(_write(tmp_path, GOOD), [override])
    assert [fault.where for fault in caught.value.faults] == [where]


def test_plain_arguments_pass(tmp_path: Path) -> None:
    """Promise: texts, numbers, yes or no, lists and tables arrive as they were written."""
    recipe = load_recipe(_write(tmp_path, GOOD), ["model.args.a={b = [1, 2.5, true]}", "data.args.c='x'"])
    assert recipe.model.args == {"a": {"b": [1, 2.5, True]}}
    assert recipe.data.args == {"c": "x"}


@pytest.mark.parametrize("override", ['train.epochs="3"', "train.epochs=true", "seed=1.0", "benchmark.measure=1"])
def test_values_of_another_type_are_not_converted(tmp_path: Path, override: str) -> None:
    """Promise: a number in quotes, or a flag written as a number, is an error and no guess."""
    with pytest.raises(InputError) as caught:
        load_recipe(_write(tmp_path, GOOD), [override])
    assert [fault.where for fault in caught.value.faults] == [override.partition("=")[0]]


def test_the_name_of_a_strange_folder_is_made_valid(tmp_path: Path) -> None:
    """Promise: a recipe without a name works in a folder of any name."""
    for name in ("ü b", "_x", "a" * 100, "..."):
        folder = tmp_path / (name if name != "..." else ".hidden.")
        folder.mkdir()
        assert load_recipe(_write(folder, GOOD)).name


def test_the_folder_above_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: `edgepress run ..` calls the recipe after the folder, as any other way to say it does."""
    (tmp_path / "net" / "inside").mkdir(parents=True)
    _write(tmp_path / "net", GOOD)
    monkeypatch.chdir(tmp_path / "net" / "inside")
    assert load_recipe("..").name == load_recipe(tmp_path / "net").name == "net"


def test_the_schema_asks_for_no_more_than_a_recipe_needs() -> None:
    """Promise: an editor that follows the schema accepts a recipe that takes its name from its folder."""
    assert sorted(recipe_schema()["required"]) == ["data", "model", "task"]


ONNX = 'name = "r"\ntask = "classification"\n[model]\nonnx = "n.onnx"\n[data]\nnpz = "d.npz"\n'
TORCH = ONNX.replace('onnx = "n.onnx"', 'factory = "m.py:net"')


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (ONNX + "[export]\nopset = 18\n", ["export"]),
        (TORCH + "split = { validation = 0.5, test = 0.5 }\n[train]\nepochs = 1\n", ["data.split"]),
        (
            ONNX + "[benchmark]\nmeasure = false\n[budget]\nlatency_ms = 5.0\nmemory_mb = 9\n",
            ["latency_ms", "memory_mb"],
        ),
    ],
)
def test_what_would_be_ignored_is_refused(text: str, where: list[str], tmp_path: Path) -> None:
    """Promise: an export that does not happen, a split that is not there, a ceiling that nobody measures."""
    with pytest.raises(InputError) as caught:
        load_recipe(_write(tmp_path, text))
    assert [fault.where.removeprefix("budget.") for fault in caught.value.faults] == where


def test_a_device_that_is_not_measured_on_is_a_fault(tmp_path: Path) -> None:
    """Naming one and measuring nothing contradict each other."""
    file = tmp_path / "recipe.toml"
    file.write_text(
        'task = "fidelity"\n[model]\nonnx = "a.onnx"\n[data]\nnpz = "a.npz"\n[benchmark]\ndevice = "pi4"\n',
        encoding="utf-8",
    )
    assert load_recipe(file).benchmark.device == "pi4"
    with pytest.raises(InputError, match=r"benchmark\.device"):
        load_recipe(file, ["benchmark.measure=false"])


def test_algorithms_are_auto_or_a_list_of_known_ones(tmp_path: Path) -> None:
    """Promise: what the recipe allows is what quantisation knows; anything else is one fault that says where."""
    from calibration.candidates import ALGORITHMS

    known = ", ".join(f'"{name}"' for name in ALGORITHMS)
    recipe = load_recipe(_write(tmp_path, f"{GOOD}[quantize]\nalgorithms = [{known}]\n"))
    assert recipe.quantize.algorithms == [*ALGORITHMS]
    assert load_recipe(_write(tmp_path, GOOD)).quantize.algorithms == "auto"
    for wrong, where in (('["biass"]', "quantize.algorithms.0:"), ('"all"', "quantize.algorithms:")):
        error = _error(tmp_path, f"{GOOD}[quantize]\nalgorithms = {wrong}\n")
        assert where in error.why
        assert ";" not in error.why


@pytest.mark.parametrize(
    ("section", "where", "words"),
    [
        ("[depth]", "depth", ("does not say how much goes", "blocks = 2 or share = 0.25")),
        ("[depth]\nblocks = 1\nshare = 0.5", "depth", ("blocks and share", "one of them")),
        ("[depth]\nblocks = 0", "depth.blocks", ("0",)),
        ("[depth]\nshare = 1.0", "depth.share", ("1",)),
        ("[sparsify]", "sparsify", ("ratio = 0.8", "threshold", "pattern")),
        ("[sparsify]\nratio = 0.5\nthreshold = 0.1", "sparsify", ("ratio and threshold",)),
        ("[sparsify]\nratio = 1.0", "sparsify.ratio", ("1",)),
        ("[sparsify]\nthreshold = 0.0", "sparsify.threshold", ("0",)),
        ('[sparsify]\npattern = "4:4"', "sparsify.pattern", ("keeps all",)),
        ('[sparsify]\npattern = "2 of 4"', "sparsify.pattern", ("2 of 4",)),
        ('[sparsify]\npattern = "2:4"\nscope = "local"', "sparsify.scope", ("only for a ratio",)),
    ],
)
def test_sections_that_change_the_model_say_how_much(
    tmp_path: Path, section: str, where: str, words: tuple[str, ...]
) -> None:
    """Promise: exactly one amount, within its range; nothing is assumed or clamped."""
    (fault,) = _error(tmp_path, f"{GOOD}{section}\n").faults
    assert fault.where == where
    assert all(word in str(fault) for word in words)


def test_whatever_changes_the_model_can_be_recovered(tmp_path: Path) -> None:
    """Promise: [distill] needs a change before it, not pruning."""
    load_recipe(_write(tmp_path, f"{GOOD}[depth]\nblocks = 1\n[distill]\nepochs = 1\n"))
    assert "distill" in {fault.where for fault in _error(tmp_path, f"{GOOD}[distill]\nepochs = 1\n").faults}
