"""Same recipe, same seed: the same bytes, wherever and in whichever environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.stages.inference import build_engine
from targets.files import sha256_file
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]
UNMEASURED = ("--set", "benchmark.measure=false", "--json")
ELSEWHERE = """
import os, platform, socket, sys, time
YEAR = 366 * 86_400.0
now, now_ns = time.time, time.time_ns
time.time, time.time_ns = (lambda: now() - 3 * YEAR), (lambda: now_ns() - int(3 * YEAR * 1e9))
os.cpu_count = lambda: 64
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
listdir = os.listdir
os.listdir = lambda *arguments: sorted(listdir(*arguments), reverse=True)
socket.gethostname = platform.node = lambda: "elsewhere"
"""
"""Another machine, as far as Python can tell: an earlier clock, one CPU (it says 64), another name and order."""


def artifacts(stderr: str) -> dict[str, str]:
    """Digests by stage that a run with --json told, without those that hold a measurement."""
    events = [json.loads(line) for line in stderr.splitlines()]
    return {
        event["stage"]: event["digest"]
        for event in events
        if event["event"] == "StageFinished" and event["stage"] != "report"
    }


def test_two_caches_and_two_folders_give_the_same_artifacts(
    result: SimpleNamespace, edgepress: Run, project: SimpleNamespace, tmp_path: Path
) -> None:
    """Promise R10: digests do not depend on cache, folder, hash seed, zone, language, umask, clock, CPUs, host."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sitecustomize.py").write_text(ELSEWHERE)
    environment = {
        "PYTHONPATH": str(tmp_path / "elsewhere"),
        "PYTHONHASHSEED": "2",
        "TZ": "Asia/Tokyo",
        "LANG": "C.UTF-8",
        "EDGEPRESS_CACHE": str(tmp_path / "cache"),
    }
    first = edgepress("run", result.recipe, "--out", tmp_path / "one", *UNMEASURED, env={"PYTHONHASHSEED": "1"})
    second = edgepress(
        "run", project.folder, "--out", tmp_path / "two", *UNMEASURED, env=environment, cwd=tmp_path, umask=0o077
    )
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert '"reused": true' not in second.stderr
    assert artifacts(first.stderr) == artifacts(second.stderr)
    assert {"train", "prune", "distill", "export", "quantize", "build:int8", "bundle"} <= set(artifacts(second.stderr))
    one, two = (tmp_path / name / "stripes" / "host" / "bundle.tar.gz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_an_engine_is_built_the_same_every_time(result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """The runtime names and orders what it adds by addresses in memory; none of it is left in the engine."""
    assert inline("export", result.recipe, "--out", tmp_path).returncode == 0
    hashes = set()
    for number in range(6):
        (out := tmp_path / str(number)).mkdir()
        build_engine(tmp_path / "host" / "export" / "model.onnx", load_profile("host"), "fp32", out)
        hashes.add(sha256_file(out / "engine.onnx"))
    assert len(hashes) == 1
