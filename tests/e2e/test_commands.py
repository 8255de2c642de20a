"""The other commands: each works on its own, and its --json parses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.cli.main import cli
from pipeline.store import Store, make_key

if TYPE_CHECKING:
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        ("prune", {"prune": ["model.json", "weights.safetensors"]}),
        ("distill", {"distill": ["model.json", "weights.safetensors"]}),
        (
            "export",
            {
                "export": ["io.json", "model.onnx", "modules.json"],
                "export-dense": ["io.json", "model.onnx", "modules.json"],
            },
        ),
        ("calibrate", {"calibrate": ["calibration.json"]}),
        ("quantize", {"quantize": ["calibration.json", "io.json", "layers.json", "model.onnx", "modules.json"]}),
        (
            "build",
            {
                name: ["engine.json", "engine.onnx", "inspect.json"]
                for name in ("build-dense-fp32", "build-fp32", "build-int8")
            },
        ),
        ("benchmark", {"benchmark": ["benchmark.json", "raw.json.gz"]}),
    ],
)
def test_a_stage_command_copies_its_files(
    stage: str, files: dict[str, list[str]], result: SimpleNamespace, inline: Run, tmp_path: Path
) -> None:
    """`edgepress STAGE --out DIR` writes DIR/<target>/<node>/, from the store where it is there."""
    done = inline(stage, result.recipe, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert {Path(row["folder"]).name for row in json.loads(done.stdout)} == set(files)
    written = {
        folder.name: sorted(file.name for file in folder.iterdir()) for folder in (tmp_path / "out" / "host").iterdir()
    }
    assert written == files
    assert '"reused": false' not in done.stderr


def test_the_bundle_command(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """`edgepress bundle` gives the same archive as `run`."""
    assert inline("bundle", result.recipe, "--out", tmp_path).returncode == 0
    assert (tmp_path / "host" / "bundle" / "bundle.tar.gz").read_bytes() == (
        result.folder / "bundle.tar.gz"
    ).read_bytes()


def test_events_as_json_lines(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """`run --json` writes one JSON document to stdout and one JSON object a line to stderr."""
    done = inline("run", result.recipe, "--out", tmp_path, "--json")
    (document,) = json.loads(done.stdout)
    assert document["target"] == "host"
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[0]["stage"] == "data"
    assert all(event["reused"] for event in events)


def test_plan_runs_nothing(project: SimpleNamespace, result: SimpleNamespace, inline: Run) -> None:
    """It shows what is stored and what is to run, without calling the user's code."""
    (document,) = json.loads(inline("plan", result.recipe, "--json").stdout)
    assert {stage["state"] for stage in document["stages"]} == {"stored"}
    project.edit("stripes_model.py", "return StripesNet(width)", "raise RuntimeError('called')")
    done = inline("plan", project.folder)
    assert done.returncode == 0, done.stderr
    states = dict(line.split()[:2] for line in done.stdout.splitlines()[1:])
    assert states["data"] == "stored"
    assert states["train"] == "to"


def test_targets_list_and_show(inline: Run) -> None:
    """All profiles are listed, each can be shown, in words and as JSON."""
    names = [row["name"] for row in json.loads(inline("targets", "list", "--json").stdout)]
    assert {"host", "x86-64-vnni", "x86-64-avx2", "raspberry-pi-5"} <= set(names)
    for name in names:
        assert json.loads(inline("targets", "show", name, "--json").stdout)["name"] == name
        assert name in inline("targets", "show", name).stdout


def test_cache_commands(edgepress: Run, tmp_path: Path) -> None:
    """Ls counts, verify accepts, a flipped bit is found, gc --all empties."""
    environment = {"EDGEPRESS_CACHE": str(tmp_path / "cache")}
    assert edgepress("cache", "ls", env=environment).stdout == "0 entries\n"
    store = Store(tmp_path / "cache")
    for stage in ("train", "prune", "export"):
        (folder := tmp_path / stage).mkdir()
        (folder / "file").write_text(stage * 100, encoding="utf-8")
        store.publish(folder, make_key({"stage": stage}), stage=stage, meta={}, measured=False)
    assert edgepress("cache", "ls", env=environment).stdout.endswith("3 entries\n")
    assert edgepress("cache", "verify", env=environment).stdout.startswith("OK")
    blob = max((tmp_path / "cache" / "cas").glob("*/*"), key=lambda file: file.stat().st_size)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    damaged = edgepress("cache", "verify", env=environment)
    assert damaged.returncode == 3
    assert "damaged" in damaged.stderr
    document = json.loads(edgepress("cache", "gc", "--all", "--json", env=environment).stdout)
    assert document["removed_entries"] == 2
    assert edgepress("cache", "ls", env=environment).stdout == "0 entries\n"


def test_doctor(inline: Run) -> None:
    """This machine passes: the tests run on it."""
    findings = json.loads(inline("doctor", "--json").stdout)
    assert all(finding["ok"] for finding in findings), findings
    assert {"python", "torch", "onnxruntime", "store"} <= {finding["subject"] for finding in findings}


@pytest.mark.parametrize("kind", ["recipe", "profile"])
def test_schema(kind: str, inline: Run) -> None:
    """A JSON Schema with the sections of the file."""
    document = json.loads(inline("schema", kind).stdout)
    assert document["additionalProperties"] is False
    assert {"recipe": "prune", "profile": "quantization"}[kind] in document["properties"]


def test_init_writes_a_recipe_that_plans(project: SimpleNamespace, inline: Run) -> None:
    """What init writes loads, plans, and is never overwritten."""
    recipe = project.folder / "first.toml"
    arguments = (
        "init",
        "--model",
        "stripes_model.py:stripes_net",
        "--data",
        "stripes_data.py:stripes",
        "--out",
        recipe,
    )
    done = inline(*arguments)
    assert done.returncode == 0, done.stderr
    assert str(recipe) in done.stdout
    assert inline("plan", recipe).returncode == 0
    again = inline(*arguments)
    assert again.returncode == 3
    assert "never overwrites" in again.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "{folder}/bundle"),
        ("layers", "{folder}/bundle", "--iterations", "5"),
        ("report", "{recipe}", "--out", "{tmp}/out"),
        ("plan", "{recipe}"),
        ("sign", "{folder}/bundle.tar.gz", "--key", "{tmp}/key.pem", "--out", "{tmp}/signatures"),
        ("init", "--model", "{recipe}/stripes_model.py:stripes_net", "--data", "{recipe}/stripes_data.py:stripes"),
        ("cache", "verify"),
        ("cache", "gc"),
    ],
    ids=lambda command: " ".join(command[:2]) if command[0] == "cache" else command[0],
)
def test_progress_for_nobody_and_for_a_program(
    command: tuple[str, ...], result: SimpleNamespace, inline: Run, tmp_path: Path
) -> None:
    """Promise: --quiet leaves stderr empty; with --json every line of it is an event, and stdout one document."""
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "key.pem").chmod(0o600)
    words = [word.format(folder=result.folder, recipe=result.recipe, tmp=tmp_path) for word in command]
    for option in ("--quiet", "--json"):
        out = ["--out", tmp_path / f"{option}.toml"] if command[0] == "init" else []
        done = inline(*words, *out, option)
        assert done.returncode == 0, done.stderr
        if option == "--quiet":
            assert not done.stderr
        else:
            assert json.loads(done.stdout)
            assert all(json.loads(line)["event"] for line in done.stderr.splitlines())
            assert done.stderr


def _names(group: click.Group, before: str = "") -> Iterator[str]:
    """Every command as it is called, groups too."""
    for name, command in group.commands.items():
        yield f"{before}{name}"
        if isinstance(command, click.Group):
            yield from _names(command, f"{before}{name} ")


@pytest.mark.parametrize("command", ["", *_names(cli)])
def test_help_shows_an_example(command: str, inline: Run) -> None:
    """Every --help has an example of that very command, no text cut short, and no line over 80 columns."""
    done = inline(*command.split(), "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    text, _, examples = done.stdout.partition("Example")
    assert f"edgepress {command}".strip() in examples
    for meant in ("]...", "BUNDLES...", "SHA256:..."):  # repeated arguments, and the form of a fingerprint
        text = text.replace(meant, "")
    assert "..." not in text


@pytest.mark.parametrize("group", [[], ["cache"], ["targets"]])
def test_a_group_alone_shows_its_help(group: list[str], inline: Run) -> None:
    """Not an error message with a help text squeezed into it."""
    done = inline(*group)
    assert done.returncode == 2
    assert "\nCommands:\n" in done.stderr


def test_no_colour_where_none_is_wanted(result: SimpleNamespace, edgepress: Run) -> None:
    """NO_COLOR and a pipe give plain text."""
    done = edgepress("report", result.folder, env={"NO_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"})
    assert "\x1b" not in done.stdout
    assert "int8" in done.stdout


def test_help_is_cheap(tmp_path: Path) -> None:
    """`edgepress --help` imports no framework, and no numpy."""
    import sys

    code = (
        "import sys; sys.argv = ['edgepress', '--help']; from pipeline.cli import main; main._run();"
        "print({'torch', 'onnxruntime', 'numpy', 'rich', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ), cwd=tmp_path
    )
    assert done.stdout.endswith("set()\n")
