"""Measuring what a run has built, from the command line, through the real device program."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_measure_a_bundle_with_accuracy(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Latency and accuracy come from the same file; the outputs are checked; everything is written."""
    done = inline(
        "measure", result.folder / "bundle.tar.gz", "--mode", "quick", "--accuracy", result.recipe, "--json",
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)
    (name,) = document["results"]
    assert document["results"][name]["outputs_ok"] is True
    assert document["results"][name]["latency_ms"]["value"] > 0
    assert document["accuracy_on_device"][name]["value"] > 0.8
    assert document["accuracy_on_device"][name]["engine_sha256"] == document["engines"][name]["sha256"]
    assert json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8")) == document
    assert (tmp_path / "raw.json.gz").stat().st_size > 0


def test_compare_gives_a_paired_verdict(result: SimpleNamespace, inline: Run) -> None:
    """A bundle against itself: one sentence, interleaved blocks, and no winner shown beyond doubt by screening."""
    bundle = result.folder / "bundle"
    done = inline("compare", bundle, bundle, "--mode", "quick")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Screening only, no verdict" in said or "No verdict on" in said
    assert "Again: edgepress compare" in said


def test_a_damaged_bundle_is_not_measured(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Exit 4, and the error names the file."""
    bundle = Path(shutil.copytree(result.folder / "bundle", tmp_path / "bundle"))
    data = bytearray((bundle / "golden.npz").read_bytes())
    data[-30] ^= 1
    (bundle / "golden.npz").chmod(0o644)
    (bundle / "golden.npz").write_bytes(data)
    done = inline("measure", bundle)
    assert done.returncode == 4
    assert "golden.npz" in done.stderr


def test_a_scenario_that_lacks_its_pace_is_refused(result: SimpleNamespace, inline: Run) -> None:
    """Exit 3 with the fix, before a device is used."""
    done = inline("measure", result.folder / "bundle", "--scenario", "paced")
    assert done.returncode == 3
    assert "period" in done.stderr


def test_an_unknown_device_ends_a_run_before_any_work(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Exit 3; nothing is written."""
    done = inline("run", result.recipe, "--device", "nosuch", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "nosuch" in done.stderr
    assert not (tmp_path / "out").exists()
