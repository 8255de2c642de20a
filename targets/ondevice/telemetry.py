"""Starts and ends the sampler beside a run, and tells what it saw: clocks, temperature, throttling, power."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from . import integration, signals
from .sensors import Sensor
from .watcher import watch

__all__ = ["PERIOD_S", "Record", "Sampler", "start", "watch"]

PERIOD_S = 0.1
_START_S, _END_S = 10.0, 2.0
# The sampler is this package, imported from where this process has it; it needs no site packages.
_BOOT = (
    "import importlib, sys; sys.path.insert(0, sys.argv[1]); "
    "importlib.import_module(sys.argv[2]).watch(sys.argv[3], float(sys.argv[4]), sys.argv[5])"
)


class Record(NamedTuple):
    """What a sampler wrote.

    Attributes:
        sensors: Sensors that it read.
        samples: Its samples (see `watcher.watch`), in order.
        before: Throttle signals at its start.
        after: Throttle signals at its end.
    """

    sensors: list[Sensor]
    samples: list[dict[str, Any]]
    before: dict[str, int]
    after: dict[str, int]


class Sampler:
    """A running sampler; it is gone after `stop` or `record`, and at the latest when this process ends."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int, period_s: float) -> None:
        self._process = process
        self._handle = handle
        self._period_s = period_s

    def stop(self, since_ns: int = 0) -> dict[str, Any] | None:
        """The ``telemetry`` object of a run; None where nothing was sampled.

        Args:
            since_ns: Samples before this moment of CLOCK_MONOTONIC are left out; throttling counts from the start.
        """
        record = self.record()
        samples = [sample for sample in record.samples if sample["t"] >= since_ns]
        return summary(record._replace(samples=samples), self._period_s) if samples else None

    def record(self) -> Record:
        """Ends the sampler and reads what it wrote; empty when asked a second time."""
        if self._handle < 0:
            return Record([], [], {}, {})
        _end(self._process)
        lines = _lines(self._handle)
        os.close(self._handle)
        self._handle = -1
        heads = [line for line in lines if "sensors" in line]
        samples = [line for line in lines if "t" in line]
        throttles = [line["h"] for line in lines if "h" in line]
        if not heads or not samples:
            return Record([], [], {}, {})
        found = [Sensor(k, name, grade, counter, wraps=tuple(w)) for k, name, grade, counter, w in heads[0]["sensors"]]
        return Record(found, samples, heads[0]["h"], throttles[-1])


def start(root: str, *, period_s: float = PERIOD_S) -> Sampler | None:
    """Starts the sampler and waits until it samples.

    Args:
        root: Where /proc and /sys are read.
        period_s: Time between two samples.

    Returns:
        None when there is nothing to sample here, or no second process can run (as in an emulator in user mode).
    """
    if not signals.anything(root):
        return None
    handle, path = tempfile.mkstemp(prefix="edgepress-", suffix=".samples")
    process, ready = None, False
    try:
        process = subprocess.Popen(
            _command(root, period_s, path),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = _is_ready(process, handle)
    except OSError:
        pass
    finally:
        os.unlink(path)  # noqa: PTH108 - both have it open: nothing stays behind, however they end
    if process is not None and ready:
        return Sampler(process, handle, period_s)
    if process is not None:
        _end(process)
    os.close(handle)
    return None


def summary(record: Record, period_s: float) -> dict[str, Any]:
    """The ``telemetry`` object: frequencies in kHz, temperatures in degrees Celsius, power in watts.

    ``throttle.events`` names what shows throttling at any time during the run (see `signals.throttled`).
    """
    heat = [sample["c"] for sample in record.samples if "c" in sample]
    readings = [sample["h"] for sample in record.samples if "h" in sample]
    events = {name for after in (*readings, record.after) for name in signals.throttled(record.before, after)}
    known = bool(record.before or record.after)
    return {
        "period_s": period_s,
        "n": len(record.samples),
        "freq_khz": _spread([sample["f"] for sample in record.samples if "f" in sample]),
        "gpu_freq_khz": _spread([sample["g"] for sample in record.samples if "g" in sample]),
        "temp_c": {"start": heat[0], "end": heat[-1], "max": max(heat)} if heat else None,
        "throttle": {"before": record.before, "after": record.after, "events": sorted(events)} if known else None,
        "power_w": _power(record),
    }


def _command(root: str, period_s: float, out: str) -> list[str]:
    package = __name__.rpartition(".")[0]
    home = Path(__file__).parents[package.count(".") + 1]
    return [sys.executable, "-I", "-S", "-c", _BOOT, str(home), f"{package}.watcher", root, str(period_s), out]


def _is_ready(process: subprocess.Popen[bytes], handle: int) -> bool:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        if any("t" in line for line in _lines(handle)):
            return True
        time.sleep(0.005)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the sampler: by closing its input, else by force."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _lines(handle: int) -> list[dict[str, Any]]:
    """The whole lines of a samples file; one cut short (a full disk) is left out."""
    os.lseek(handle, 0, os.SEEK_SET)
    blocks = []
    while True:
        block = os.read(handle, 1 << 20)
        if not block:
            break
        blocks.append(block)
    found = []
    for line in b"".join(blocks).split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _spread(values: list[int]) -> dict[str, int] | None:
    if not values:
        return None
    return {"first": values[0], "median": sorted(values)[len(values) // 2], "min": min(values)}


def _power(record: Record) -> dict[str, Any] | None:
    """Mean power by the best sensor that was read at least twice."""
    for sensor in record.sensors:
        watts = integration.mean_watts(integration.series_of(record.samples, sensor))
        if watts is not None:
            return {"mean": watts, "sensor": sensor.name, "grade": sensor.grade}
    return None
