"""Other targets, and budgets that nothing meets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from targets import machine

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]
FOREIGN = "x86-64-vnni" if machine.arch() == "aarch64" else "raspberry-pi-5"


def test_a_foreign_target_without_measuring(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """It works across targets, and everything says that latency was not measured."""
    done = inline("run", result.recipe, "--target", FOREIGN, "--set", "benchmark.measure=false", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "latency was not measured" in done.stdout.replace("\n", " ")
    folder = tmp_path / "stripes" / FOREIGN
    assert "not measured" in (folder / "report.html").read_text(encoding="utf-8")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert {candidate.get("latency_ms") for candidate in run["candidates"]} == {None}
    assert json.loads((folder / "bundle" / "manifest.json").read_text(encoding="utf-8"))["target"] == FOREIGN


def test_a_foreign_target_cannot_be_measured_here(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Exit 6 before any work, and the remedy it names works (the test above)."""
    done = inline("run", result.recipe, "--target", FOREIGN, "--out", tmp_path / "out")
    assert done.returncode == 6
    assert "--set benchmark.measure=false" in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_targets_in_one_command(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Each gets its folder."""
    options = ("--target", "host", "--target", FOREIGN, "--set", "benchmark.measure=false")
    done = inline("run", result.recipe, *options, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert [document["target"] for document in json.loads(done.stdout)] == ["host", FOREIGN]
    assert sorted(item.name for item in (tmp_path / "stripes").iterdir()) == sorted(["host", FOREIGN])


def test_an_impossible_budget(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Exit 7; the closest bundle is there, verifies, and is marked as rejected."""
    done = inline("run", result.recipe, "--set", "budget.latency_ms=1e-6", "--out", tmp_path)
    assert done.returncode == 7
    assert "nothing meets the budget on host" in done.stderr
    assert "latency_ms" in done.stderr
    folder = tmp_path / "stripes" / "host"
    assert "over the ceiling" in (folder / "REJECTED.txt").read_text(encoding="utf-8")
    assert inline("verify", folder / "bundle.tar.gz").returncode == 0
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["verdict"]["met_budget"] is False


@pytest.mark.parametrize("command", ["bundle", "report"])
def test_every_command_that_bundles_says_so_too(
    command: str, result: SimpleNamespace, inline: Run, tmp_path: Path
) -> None:
    """Exit 7 and the mark, whichever command made the bundle."""
    done = inline(command, result.recipe, "--set", "budget.latency_ms=1e-6", "--out", tmp_path, "--json")
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout)
    assert len(list(tmp_path.rglob("REJECTED.txt"))) == 1


def test_quantizing_for_a_foreign_target_measures_nothing(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """A stage command needs what its stage needs, and no device."""
    done = inline("quantize", result.recipe, "--target", FOREIGN, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / FOREIGN / "quantize" / "model.onnx").exists()


def test_a_met_budget_removes_the_mark(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """The next run that meets its budget leaves no REJECTED.txt behind."""
    assert inline("run", result.recipe, "--set", "budget.latency_ms=1e-6", "--out", tmp_path).returncode == 7
    assert inline("run", result.recipe, "--out", tmp_path).returncode == 0
    assert not (tmp_path / "stripes" / "host" / "REJECTED.txt").exists()
