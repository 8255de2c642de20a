"""Energy of one inference, from a sensor only: idle, loaded windows, idle; one process, one sampler beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import integration, loads, signals, telemetry
from .arrays import read_inputs
from .built import engine_folder
from .failure import DEVICE, Failure
from .runner import engine_errors, open_runner
from .session import one_sample_feeds, read_spec
from .supply import read_supply
from .timing import clock_overhead_ns, inner_loops, summarise, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .loads import Load, Span
    from .sensors import Sensor

_ROTATION = 64
_POLL_S = 0.02
_WARMUP_S = 0.5
_COOLER_C = 3.0
_COOLING_CAP_S = 60.0
_GPU_WORDS = ("cuda", "tensorrt")


class _Recorded(NamedTuple):
    """All that the protocol gave."""

    record: telemetry.Record
    idle: list[Span]
    loaded: list[Span]
    load: Load
    plugged: bool


def measure_energy(
    folder: Path,
    samples: str,
    *,
    windows: int = 5,
    window_s: float = 10.0,
    idle_s: float = 10.0,
    period_ms: float | None = None,
    root: str = "/",
) -> dict[str, Any]:
    """Energy and latency of the same inferences; millijoules only where a sensor gave them.

    Args:
        folder: The engine folder.
        samples: An .npz of real samples; up to 64 in rotation, one at a time.
        windows: Loaded windows; results are their median, with the lowest and the highest.
        window_s: Length of each.
        idle_s: Length of the idle stretches before and after; their mean power is what ``net`` leaves out.
        period_ms: One inference every so often; None: back to back.
        root: Where /proc and /sys are read.

    Returns:
        ``grade`` ``E`` and ``reason`` where no sensor covers what the engine uses; else ``sensor``, ``gross_mj`` and
        ``net_mj`` an inference, ``avg_w``, ``idle_w``, ``windows``, ``hz``, ``latency``.

    Raises:
        Failure: The input does not fit (3), it is another engine (4), device, runtime or sensor fail (6).
    """
    folder = engine_folder(folder)
    spec = read_spec(folder)
    feeds = one_sample_feeds({k: v[:_ROTATION] for k, v in read_inputs(samples).items()}, spec)
    found = signals.find(root)
    try:
        runner = open_runner(folder, spec)
        if usable(found.sensors, runner.providers):
            call = runner.bind(feeds, runner.run(feeds[0])).call
            recorded = _protocol(call, found, (windows, window_s, idle_s), period_ms)
            answer = _answer(recorded, runner.providers)
        else:
            reasons = [f"{item.name}: {item.why}" for item in found.unreadable]
            answer = _nothing(found, "; ".join(reasons) or "this device has no energy sensor that covers the engine")
    except engine_errors(spec) as error:
        why, fix = " ".join(str(error).split())[:500], "run `verify` on the bundle on this device"
        raise Failure(DEVICE, "the engine failed while its energy was measured", why, fix) from error
    return {
        **answer,
        "unreadable": [item._asdict() for item in found.unreadable],
        "engine_sha256": spec["sha256"],
        "runtime_version": runner.runtime_version,
        "providers": runner.providers,
        "allow_spinning": spec["options"].get("allow_spinning"),
        "pid": os.getpid(),
    }


def usable(found: Sequence[Sensor], providers: Sequence[str]) -> list[Sensor]:
    """Sensors that cover the processor in use, the best first: NVML says nothing of a CPU, RAPL nothing of a GPU."""
    gpu = any(word in name.lower() for name in providers for word in _GPU_WORDS)
    return [item for item in found if item.kind != ("rapl" if gpu else "nvml")]


def _nothing(found: signals.Signals, reason: str) -> dict[str, Any]:
    supply = read_supply(found.tree)
    charge = {"ac_power": supply.ac_power, "charging": supply.charging}
    return {"grade": "E", "sensor": None, "reason": reason, **charge}


def _protocol(
    call: Callable[[int], None],
    found: signals.Signals,
    lengths: tuple[int, float, float],
    period_ms: float | None,
) -> _Recorded:
    windows, window_s, idle_s = lengths
    period_ns = None if period_ms is None else int(period_ms * 1e6)
    sampler = telemetry.start(found.tree.root, period_s=_POLL_S)
    if sampler is None:
        why, fix = "no second process can be started beside the engine", "measure on the device itself, not emulated"
        raise Failure(DEVICE, "energy cannot be sampled here", why, fix)
    loaded: list[Span] = []
    try:
        warm = warm_up(call, min_iterations=10, min_s=_WARMUP_S, cap_s=10.0)
        expected_ns = float(np.median(warm))
        load = loads.plan(window_s, period_ns, expected_ns, inner_loops(expected_ns, clock_overhead_ns()))
        idle = [loads.idle(idle_s)]
        plugged = [_plugged(found)]
        first_c = signals.temperature_c(found)
        for _ in range(windows):
            waited_s = _cool_down(found, first_c)
            start_c = signals.temperature_c(found)
            loaded.append(loads.window(call, load)._replace(waited_s=waited_s, start_c=start_c))
            plugged.append(_plugged(found))
        idle.append(loads.idle(idle_s))
        plugged.append(_plugged(found))
        time.sleep(2 * _POLL_S)  # so that readings reach past the end
    finally:
        record = sampler.record()
    return _Recorded(record, idle, loaded, load, any(plugged))


def _plugged(found: signals.Signals) -> bool:
    supply = read_supply(found.tree)
    return bool(supply.ac_power or supply.charging)


def _cool_down(found: signals.Signals, first_c: float | None) -> float:
    """Waits until it is no more than 3 degrees warmer than before the first window, a minute at most; gives seconds."""
    begin = time.monotonic()
    while first_c is not None and time.monotonic() - begin < _COOLING_CAP_S:
        now_c = signals.temperature_c(found)
        if now_c is None or now_c <= first_c + _COOLER_C:
            break
        time.sleep(0.25)
    return round(time.monotonic() - begin, 3)


def _answer(recorded: _Recorded, providers: Sequence[str]) -> dict[str, Any]:
    record = recorded.record
    rows = [_by_sensor(recorded, sensor) for sensor in usable(record.sensors, providers)]
    measured = [row for row in rows if row is not None]
    if not measured:
        why, fix = "its readings do not cover the whole measurement", "run it again; if it stays, see the kernel's log"
        raise Failure(DEVICE, "the energy sensor stopped answering", why, fix)
    best = measured[0]
    if recorded.plugged and best["sensor"]["kind"] == "battery":
        reason = "it was plugged in while it was measured: a battery's gauge then does not show what the device draws"
        return {"grade": "E", "sensor": None, "reason": reason, "ac_power": True, "charging": None}
    samples = [value for span in recorded.loaded for value in span.samples_ns]
    latency = summarise(samples, recorded.load.inner)
    latency.update(raw=samples, raw_stride=recorded.load.stride)
    return {
        **best,
        "others": measured[1:],
        "period_ns": recorded.load.period_ns,
        "latency": latency,
        "ac_power": recorded.plugged,
        "telemetry": telemetry.summary(record, _POLL_S),
    }


def _by_sensor(recorded: _Recorded, sensor: Sensor) -> dict[str, Any] | None:
    """What one sensor says; None where its readings do not reach from the first stretch to the last."""
    series = integration.series_of(recorded.record.samples, sensor)
    energies = [integration.joules(series, span.start_ns, span.end_ns) for span in (*recorded.idle, *recorded.loaded)]
    known = [value for value in energies if value is not None]
    if len(known) < len(energies):
        return None
    idle_s = [span.seconds for span in recorded.idle]
    idle_j, loaded_j = known[: len(idle_s)], known[len(idle_s) :]
    idle_w = sum(idle_j) / sum(idle_s)
    rows = [_window_row(series, span, loaded_j[i], idle_w) for i, span in enumerate(recorded.loaded)]
    return {
        "grade": sensor.grade,
        "sensor": {"kind": sensor.kind, "name": sensor.name, "grade": sensor.grade},
        "gross_mj": _spread(rows, "gross_mj"),
        "net_mj": _spread(rows, "net_mj"),
        "avg_w": float(np.median([row["avg_w"] for row in rows])),
        "idle_w": idle_w,
        "idle_before_w": idle_j[0] / idle_s[0],
        "idle_after_w": idle_j[-1] / idle_s[-1],
        "windows": rows,
        "updates_min": min(row["updates"] for row in rows),
        "hz": sum(row["updates"] for row in rows) / sum(span.seconds for span in recorded.loaded),
    }


def _window_row(series: integration.Series, span: Span, energy_j: float, idle_w: float) -> dict[str, Any]:
    return {
        "wall_ns": span.end_ns - span.start_ns,
        "n": span.n,
        "late_n": span.late_n,
        "gross_mj": 1000 * energy_j / span.n,
        "net_mj": 1000 * (energy_j - idle_w * span.seconds) / span.n,
        "avg_w": energy_j / span.seconds,
        "updates": integration.updates(series, span.start_ns, span.end_ns),
        "waited_s": span.waited_s,
        "start_c": span.start_c,
    }


def _spread(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    values = [float(row[key]) for row in rows]
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}
