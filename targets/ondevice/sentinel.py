"""A fixed piece of single-threaded arithmetic: how fast this device is just now, apart from any engine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

_SIZE = 256  # three matrices of 256 KiB: in the second-level cache of any CPU meant here
_TARGET_NS = 100_000_000
_LONGEST_NS = 2_000_000_000  # a clock of CPU time that stands still must not keep us here
_PASSES = 5


def calibrate() -> dict[str, Any]:
    """Finds how many multiplications take about 100 ms, and the best of 5 passes of them.

    Returns:
        As `run`.
    """
    work = _Work()
    repeats = 1
    while True:
        wall, cpu = work.run(repeats)  # by CPU time: other work on the device must not make the piece smaller
        if cpu >= _TARGET_NS // 4 or wall >= _LONGEST_NS:
            break
        repeats *= 2
    repeats = max(1, round(repeats * _TARGET_NS / cpu)) if cpu > 0 else repeats
    wall, cpu = min(work.run(repeats) for _ in range(_PASSES))
    return {"repeats": repeats, "wall_ns": wall, "cpu_ns": cpu}


def run(repeats: int) -> dict[str, Any]:
    """One pass of ``repeats`` multiplications of float32 matrices (256, 256).

    Returns:
        ``repeats``, ``wall_ns``, and ``cpu_ns`` of all threads of this process.
    """
    work = _Work()
    work.run(1)  # pages of the matrices, and of the library's own buffers
    wall, cpu = work.run(repeats)
    return {"repeats": repeats, "wall_ns": wall, "cpu_ns": cpu}


class _Work:
    """The matrices, the same in every process."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._a, self._b = (rng.random((_SIZE, _SIZE), dtype=np.float32) for _ in range(2))
        self._out = np.empty((_SIZE, _SIZE), dtype=np.float32)

    def run(self, repeats: int) -> tuple[int, int]:
        """Wall time and CPU time in nanoseconds."""
        a, b, out, matmul = self._a, self._b, self._out, np.matmul
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        for _ in range(repeats):
            matmul(a, b, out=out)
        return time.perf_counter_ns() - wall, time.process_time_ns() - cpu
