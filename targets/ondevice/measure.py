"""Measures one engine in this fresh process: load, first inference, warm-up, steady latency, peak memory, outputs."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import memory
from .arrays import read_arrays, read_inputs
from .failure import DEVICE, REFUSED, Failure
from .session import Runtime, Session, import_runtime, one_sample_feeds, open_session, read_spec, runtime_errors
from .timing import timed_loop, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_ROTATION = 64  # distinct samples in rotation, at most
_TOLERANCE = 1e-3  # allowed error of outputs, relative to the largest expected magnitude


class Limits(NamedTuple):
    """How long to warm up and to measure."""

    warmup_iterations: int = 10
    warmup_s: float = 0.5
    warmup_cap_s: float = 10.0
    min_iterations: int = 100
    min_s: float = 1.5
    cap_s: float = 30.0


def measure_engine(
    folder: Path, samples: str, limits: Limits, *, engine_sha256: str = "", expected: str = ""
) -> dict[str, Any]:
    """One row of ``runs`` in benchmark.json (times in ns, sizes in bytes), without block and order.

    Args:
        folder: The engine folder.
        samples: An .npz of real, preprocessed samples; up to 64 are used in rotation, one at a time.
        limits: How long to warm up and measure.
        engine_sha256: Refuse any other engine; empty accepts what engine.json says.
        expected: An .npz of expected outputs (``output.<name>`` arrays); empty compares nothing.

    Raises:
        Failure: The input does not fit (3), the engine is another one (4), or the runtime fails (5, 6).
    """
    spec = read_spec(folder)
    if engine_sha256 and engine_sha256 != spec["sha256"]:
        raise Failure(
            REFUSED,
            "this is not the engine to be measured",
            "its sha256 is {}, asked for {}".format(spec["sha256"], engine_sha256),
            "push the engine again",
        )
    feeds = one_sample_feeds({k: v[:_ROTATION] for k, v in read_inputs(samples).items()}, spec)
    try:
        return _measure(folder, spec, feeds, limits, expected)
    except runtime_errors() as error:
        raise Failure(
            DEVICE,
            "the engine failed while it was measured",
            " ".join(str(error).split())[:500],
            "run `verify` on the bundle on this device",
        ) from error


def _measure(
    folder: Path,
    spec: Mapping[str, Any],
    feeds: list[dict[str, np.ndarray]],
    limits: Limits,
    expected: str,
) -> dict[str, Any]:
    resettable = memory.reset_peak()
    base = memory.resident()
    clock = time.perf_counter_ns
    start = clock()
    runtime = import_runtime()
    import_ns = clock() - start
    start = clock()
    session = open_session(folder, spec)
    load_ns = clock() - start
    load_peak = memory.peak()
    resettable = memory.reset_peak() and resettable
    names = [item["name"] for item in spec["outputs"]]
    start = clock()
    first = session.run(names, feeds[0])
    first_ns = clock() - start
    call, outputs = _bound_calls(runtime, session, names, feeds, first)
    warm = warm_up(call, min_iterations=limits.warmup_iterations, min_s=limits.warmup_s, cap_s=limits.warmup_cap_s)
    report = timed_loop(
        call,
        expected_ns=float(np.median(warm)),
        min_iterations=limits.min_iterations,
        min_s=limits.min_s,
        cap_s=limits.cap_s,
    )
    run_peak = memory.peak()
    shares = memory.shares()
    ran = min(report["n"] * report["inner_loops"], len(feeds))
    got = {name: np.concatenate([rows[i].numpy() for rows in outputs[:ran]]) for i, name in enumerate(names)}
    report.update(
        pid=os.getpid(),
        engine_sha256=spec["sha256"],
        runtime_version=runtime.__version__,
        import_ns=import_ns,
        load_ns=load_ns,
        first_ns=first_ns,
        warmup_n=len(warm),
        warmup_median_ns=round(float(np.median(warm))),
        n_distinct=len(feeds),
        mem={
            "base_rss": base,
            "load_peak": _above(load_peak, base),
            "run_peak": _above(run_peak, base),
            "steady_pss": shares["pss"],
            "steady_uss": shares["uss"],
            "peaks_split": resettable,
        },
        outputs_sha256=_digest(got),
        outputs_ok=_outputs_ok(got, expected),
    )
    return report


def _bound_calls(
    runtime: Runtime, session: Session, names: list[str], feeds: list[dict[str, np.ndarray]], first: list[np.ndarray]
) -> tuple[Callable[[int], None], list[list[Any]]]:
    """A call that runs sample ``i % samples`` with inputs and outputs bound beforehand, and those outputs."""
    bindings, outputs = [], []
    for feed in feeds:
        binding = session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        row = [runtime.OrtValue.ortvalue_from_numpy(np.zeros_like(value)) for value in first]
        for i, name in enumerate(names):
            binding.bind_ortvalue_output(name, row[i])
        bindings.append(binding)
        outputs.append(row)
    run, count = session.run_with_iobinding, len(bindings)

    def call(index: int) -> None:
        run(bindings[index % count])

    return call, outputs


def _digest(outputs: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(outputs):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(outputs[name]).tobytes())
    return digest.hexdigest()


def _outputs_ok(got: Mapping[str, np.ndarray], expected: str) -> bool | None:
    if not all(np.isfinite(array).all() for array in got.values() if array.dtype.kind == "f"):
        return False
    if not expected:
        return None
    wanted = read_arrays(expected, "output.")
    for name, array in got.items():
        target = wanted.get(name)
        if target is None or len(target) < len(array) or target.shape[1:] != array.shape[1:]:
            return False
        error = np.abs(array.astype(np.float64) - target[: len(array)])
        if error.max() > _TOLERANCE * max(1e-12, float(np.abs(target).max())):
            return False
    return True


def _above(value: int | None, base: int | None) -> int | None:
    return None if value is None or base is None else max(0, value - base)
