"""A search over the digits: 20 trials against the clock, and one that is killed and goes on.

    digits.py FOLDER [--trials 20] [--workers 2] [--killed-trials 8] [--seed 0]

Cold caches. First the workers share a study and a cache, and the time until the last one ends counts. Then one
worker's search is killed (SIGKILL) at a random moment and goes on; an undisturbed search takes its latencies from that
cache, and both must end with the same trials and the same front. (Workers side by side draw by what the other has
finished, so that their trials depend on who was faster.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
SEARCH = """
[search]
[search.space]
prune.ratio = { low = 0.2, high = 0.7, step = 0.05 }
prune.criterion = ["l2", "taylor"]
distill.temperature = [2.0, 4.0]
quantize.method = ["minmax", "mse"]
[search.screening]
benchmark = { mode = "quick", budget_s = 3.0 }
"""
SETTINGS = (
    "distill.epochs=3", "benchmark.budget_s=8", 'build.candidates=["int8"]', "quantize.algorithms=[]",
    "quantize.sensitivity=off", "quantize.mixed_precision=off", "quantize.qat=off",
)  # fmt: skip


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--killed-trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill")
    asked = parser.parse_args()
    project = write_project(asked.folder)
    begin_s, before_s = time.monotonic(), cpu_s()
    names = [f"worker{number}" for number in range(asked.workers)]
    ended([begun(project, "cold", name, asked.trials, "shared") for name in names])
    wall_s, used_s = time.monotonic() - begin_s, cpu_s() - before_s
    shared = found(asked.folder, names[0])
    few = asked.killed_trials
    moment_s = random.Random(asked.seed).uniform(0.1, 0.6) * wall_s * few / asked.trials * asked.workers  # noqa: S311
    killed = begun(project, "other", "killed", few, "killed")
    time.sleep(moment_s)
    known = killed.poll()
    killed.kill()
    killed.wait()
    before = found(asked.folder, "killed")
    ended([begun(project, "other", "killed", few, "killed")])
    ended([begun(project, "other", "whole", few, "whole")])
    one, other = found(asked.folder, "killed"), found(asked.folder, "whole")
    document = {
        "trials": len(shared["trials"]) + len(shared["given_up"]),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(used_s, 1),
        "cores": os.cpu_count(),
        "front": [trial["engine"] for trial in shared["trials"] if trial["number"] in shared["front"]],
        "met_budget": shared["met_budget"],
        "killed_after_s": round(moment_s, 1),
        "had_ended_before": known is not None,
        "trials_before_the_kill": len(before.get("trials", [])),
        "trials_in_the_end": len(one["trials"]) + len(one["given_up"]),
        "same_trials": one["trials"] == other["trials"],
        "same_front": one["front"] == other["front"],
    }
    print(json.dumps(document, indent=1))
    sys.exit(0 if document["same_front"] and document["same_trials"] else 1)


def write_project(folder: Path) -> Path:
    """The example with a space to search; each trial is as short as it can be and still tell."""
    project = folder / "digits"
    shutil.copytree(DIGITS, project)
    recipe = project / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8") + SEARCH, encoding="utf-8")
    return project


def begun(project: Path, cache: str, out: str, trials: int, study: str) -> subprocess.Popen[bytes]:
    """One worker, under way."""
    folder = project.parent
    program = Path(sys.executable).with_name("edgepress")
    options = ["--trials", str(trials), "--out", folder / out, "--storage", folder / f"{study}.journal"]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(folder / f"cache-{cache}")}
    return subprocess.Popen(
        [program, "search", project, *options, *settings],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def ended(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits for all."""
    for code in [worker.wait() for worker in workers]:
        if code not in {0, 7}:
            raise SystemExit(f"a search ended with exit code {code}")


def cpu_s() -> float:
    """Processor seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def found(folder: Path, out: str) -> dict[str, Any]:
    """What is on the disk."""
    paths = list((folder / out).glob("*/host.search/search.json"))
    return json.loads(paths[0].read_text(encoding="utf-8")) if paths else {}


if __name__ == "__main__":
    main()
