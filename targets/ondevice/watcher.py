"""The sampler's own process: reads every signal at a steady pace, writes one line each time, ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import time
from typing import Any

from . import sensors, signals

_SLOW_PERIOD_S = 0.1  # clocks and temperatures are never read faster than this, however fast the sensors are
_PR_SET_PDEATHSIG = 1


def watch(root: str, period_s: float, out: str) -> None:
    """Samples until standard input ends or the parent is gone.

    ``out`` becomes one JSON object a line. The first: ``sensors`` (kind, name, grade, counter, wraps) and ``h``
    (throttle signals). Then samples: ``t`` (CLOCK_MONOTONIC, ns), ``s`` (by sensor: time in ns and the raw figure of
    each part) and, at most ten times a second, ``f`` and ``g`` (CPU and GPU clock, kHz), ``c`` (Celsius) and ``h``.
    The last: ``h`` alone.

    Args:
        root: Where /proc and /sys are read.
        period_s: Time between two samples.
        out: The file to append to.

    Raises:
        OSError: The file cannot be written.
    """
    parent = os.getppid()
    _die_with_parent()
    _stand_aside()
    found = signals.find(root, _watched_cpus())
    _leave_cpus()
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    head = [[item.kind, item.name, item.grade, item.counter, item.wraps] for item in found.sensors]
    _write(descriptor, {"sensors": head, "h": signals.throttle(found)})
    slow_due = 0.0
    while os.getppid() == parent:
        now = time.monotonic()
        sample = _energies(found)
        if now >= slow_due:
            sample.update(_states(found))
            slow_due = now + 0.9 * _SLOW_PERIOD_S
        _write(descriptor, sample)
        left = max(0.0, now + period_s - time.monotonic())
        if select.select([0], [], [], left)[0] and not os.read(0, 4096):
            _write(descriptor, _energies(found))
            _write(descriptor, {"h": signals.throttle(found)})
            return


def _write(descriptor: int, line: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _energies(found: signals.Signals) -> dict[str, Any]:
    figures = {}
    for sensor in found.sensors:
        before = time.monotonic_ns()
        parts = sensors.read(found.tree, sensor)
        if parts is not None:
            figures[sensor.name] = [(before + time.monotonic_ns()) // 2, *parts]
    return {"t": time.monotonic_ns(), "s": figures}


def _states(found: signals.Signals) -> dict[str, Any]:
    values = {"f": signals.cpu_khz(found), "g": signals.gpu_khz(found), "c": signals.temperature_c(found)}
    state: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    state["h"] = signals.throttle(found, tools=False)
    return state


def _die_with_parent() -> None:
    """Asks the kernel to end this process when the thread that started it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _stand_aside() -> None:
    """Lowest priority, and no limit of memory that was meant for the measured process."""
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _watched_cpus() -> list[int] | None:
    """The CPUs that the measured process may use, which this one inherited; None where that cannot be asked."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _leave_cpus() -> None:
    """Moves this process to the CPUs that the measured one may not use, if there are any."""
    if not hasattr(os, "sched_getaffinity"):
        return
    others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
    if others:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, others)
