"""A search over the digits: 20 trials against the clock, and one that is killed and goes on.

    digits.py FOLDER [--trials 20] [--seed 0]

Two cold caches. In the first one the search runs undisturbed, and its time counts. In the second one it is killed
(SIGKILL) at a random moment and goes on; then an undisturbed search takes its latencies from that cache, and both must
end with the same trials and the same front.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    wall_s, cpu_s = searched(asked.folder, "cold", "undisturbed", asked.trials)
    moment_s = random.Random(asked.seed).uniform(0.05, 0.95) * wall_s  # noqa: S311 - no secret
    killed = begun(asked.folder, "other", "killed", asked.trials)
    time.sleep(moment_s)
    known = killed.poll()
    killed.kill()
    killed.wait()
    before = found(asked.folder, "killed")
    searched(asked.folder, "other", "killed", asked.trials)
    searched(asked.folder, "other", "whole", asked.trials)
    one, other = found(asked.folder, "killed"), found(asked.folder, "whole")
    document = {
        "trials": len(one["trials"]) + len(one["given_up"]),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "killed_after_s": round(moment_s, 1),
        "had_ended_before": known is not None,
        "trials_before_the_kill": len(before.get("trials", [])),
        "same_trials": one["trials"] == other["trials"],
        "same_front": one["front"] == other["front"],
        "front": [trial["engine"] for trial in one["trials"] if trial["number"] in one["front"]],
        "met_budget": one["met_budget"],
    }
    print(json.dumps(document, indent=1))
    sys.exit(0 if document["same_front"] and document["same_trials"] else 1)


def begun(folder: Path, cache: str, out: str, trials: int) -> subprocess.Popen[bytes]:
    """The search, under way."""
    program = Path(sys.executable).with_name("edgepress")
    command = [program, "search", DIGITS, "--trials", str(trials), "--out", folder / out]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(folder / f"cache-{cache}")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def searched(folder: Path, cache: str, out: str, trials: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a search."""
    begin_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = begun(folder, cache, out, trials).wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code not in {0, 7}:
        raise SystemExit(f"the search ended with exit code {code}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begin_s, cpu_s


def found(folder: Path, out: str) -> dict[str, Any]:
    """What is on the disk."""
    paths = list((folder / out).glob("*/host.search/search.json"))
    return json.loads(paths[0].read_text(encoding="utf-8")) if paths else {}


if __name__ == "__main__":
    main()
