"""Memory that is there for a moment only: the kernel's high-water mark has it, a look now and then has not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64 << 20
CODE = """
import json, mmap, sys, time
from pathlib import Path
import numpy as np
from targets.ondevice import measure, memory, opening
from targets.ondevice.runner import Bound, Runner
from targets.ondevice.scenarios import Limits

SIZE, folder, samples = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
looks, held = [], []

class Synthetic(Runner):
    runtime_version, providers = "0", ["Synthetic"]

    def run(self, feed):
        return [feed["x"]]

    def bind(self, feeds, like):
        def call(index):
            if index == 30 and len(looks) > 20:
                begin = time.perf_counter_ns()
                with mmap.mmap(-1, SIZE) as fresh:
                    fresh[::mmap.PAGESIZE] = bytes([1]) * (SIZE // mmap.PAGESIZE)
                held.append(time.perf_counter_ns() - begin)
            elif index % 10 == 0:
                looks.append(memory.resident())
        return Bound(call=call, outputs=lambda: [[feed["x"]] for feed in feeds])

opening.open_runner = lambda *_: Synthetic()
limits = Limits(warmup_iterations=200, warmup_s=0, min_iterations=60, min_s=0)
original = measure.warm_up
measure.warm_up = lambda *args, **options: (original(*args, **options), [10**9])[1]
row = measure.measure_engine(folder, samples, limits)
print(json.dumps({"mem": row["mem"], "looks": looks, "held": len(held)}))
"""


def test_64_mb_touched_for_a_moment_are_in_the_run_peak(bundle: Path) -> None:
    """64 MiB touched inside one call and given back at once are in `run_peak`, in nothing seen between the calls."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(SIZE), str(bundle), str(bundle / "golden.npz")],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    found = json.loads(done.stdout)
    memory = found["mem"]
    if not memory["peaks_split"]:
        pytest.skip("this kernel does not let a process reset its peak")
    assert found["held"] == 1
    seen = max(found["looks"]) - memory["base_rss"]
    assert memory["run_peak"] >= seen + 0.9 * SIZE
    assert memory["load_peak"] < seen + 0.1 * SIZE
    assert memory["steady_uss"] < memory["base_rss"] + seen + 0.5 * SIZE
