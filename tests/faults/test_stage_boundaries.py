"""Kill -9 at the boundaries of real stages: one store goes through all of them, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).parent
RECIPE = HERE.parent / "e2e" / "stripes"
STAGES = (
    "data", "train", "prune", "distill", "export:dense", "export", "calibrate", "quantize", "build:dense-fp32",
    "build:fp32", "build:int8", "gate", "bundle", "report",
)  # fmt: skip
MOMENTS = ("before", "mid", "blobs", "after")
SAMPLE = [("train", "blobs")]  # three processes that import torch; the sweep is long


def _run(folder: Path, command: str, kill: str = "") -> subprocess.CompletedProcess[str]:
    arguments = [command, RECIPE, "--out", folder / "out", "--json", "--set", "train.epochs=1"]
    if command == "run":
        arguments += ["--set", "benchmark.measure=false"]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(folder / "cache"), "KILL": kill}
    return subprocess.run(
        [sys.executable, HERE / "killer.py", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, timeout=300,
    )  # fmt: skip


def _finished(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, bool]]:
    """By stage: digest, and whether it was reused."""
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return {e["stage"]: (e["digest"], e["reused"]) for e in events if e["event"] == "StageFinished"}


def _kill_through(moments: list[tuple[str, str]], command: str, folder: Path, invariants: ModuleType) -> dict[str, str]:
    """Kills at each moment in turn, on one store; the digests of the run that then finishes."""
    killed = 0
    for stage, moment in moments:
        done = _run(folder, command, f"{stage}.{moment}")
        if done.returncode == 0:
            continue  # a moment before had it finished
        assert done.returncode == -9, done.stderr
        killed += 1
        stages = invariants.check_store(folder / "cache", after_next_run=False)
        own = stage.partition(":")[0]
        if ":" not in stage and own != "export":
            assert (own in stages) == (moment == "after"), f"{stage} is half there after a kill at {moment}"
    assert killed >= max(1, len(moments) - 2)
    last = _run(folder, command)
    assert last.returncode == 0, last.stderr
    invariants.check_store(folder / "cache", after_next_run=True)
    told = _finished(last)
    finished = {stage for stage, moment in moments if moment == "after"}
    assert all(told[stage][1] for stage in finished), "a finished stage was run again"
    return {stage: digest for stage, (digest, _) in told.items()}


def test_kills_at_real_stages_lose_nothing(tmp_path: Path, invariants: ModuleType) -> None:
    """Promise R1: killed before its record, a stage is redone; killed after it, it is kept; digests are the same."""
    digests = _kill_through(SAMPLE, "prune", tmp_path / "killed", invariants)
    (tmp_path / "calm").mkdir()
    calm = _run(tmp_path / "calm", "prune")
    assert digests == {stage: digest for stage, (digest, _) in _finished(calm).items()}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_kills_at_every_boundary_lose_nothing(tmp_path: Path, invariants: ModuleType) -> None:
    """Promise R1: killed at every boundary of every real stage, one store ends with the digests of a calm run."""
    moments = [(stage, moment) for stage in STAGES for moment in MOMENTS]
    digests = _kill_through(moments, "run", tmp_path / "killed", invariants)
    calm = _run(tmp_path / "calm", "run")
    expected = {stage: digest for stage, (digest, _) in _finished(calm).items()}
    measured = {"report"}  # tells how long stages took
    assert {k: v for k, v in digests.items() if k not in measured} == {
        k: v for k, v in expected.items() if k not in measured
    }
