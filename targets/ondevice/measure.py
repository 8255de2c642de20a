"""Measures one engine in this fresh process: load, first inference, warm-up, the scenario, peak memory, outputs."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import affinity, memory, outputs, telemetry
from .arrays import read_inputs
from .built import engine_folder
from .failure import BAD_INPUT, DEVICE, ENVIRONMENT, REFUSED, Failure
from .opening import Opened, open_and_run, peaks
from .runner import engine_errors
from .scenarios import Limits, Scenario, run_scenario
from .session import one_sample_feeds, out_of_memory, read_spec
from .timing import clock_overhead_ns, summarise, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_ROTATION = 64  # distinct samples in rotation, at most


class Conditions(NamedTuple):
    """Under which conditions to measure.

    Attributes:
        affinity: ``default``, ``big``, ``little``, or CPUs.
        memory_limit_bytes: Of the address space; None: no limit.
        sentinel: When to run the sentinel: ``before``, ``after``.
        sentinel_repeats: Its length.
        root: Where /proc and /sys are read.
    """

    affinity: str = "default"
    memory_limit_bytes: int | None = None
    sentinel: Sequence[str] = ()
    sentinel_repeats: int = 0
    root: str = "/"


def measure_engine(
    folder: Path,
    samples: str,
    limits: Limits,
    *,
    scenario: Scenario = Scenario(),  # noqa: B008 - immutable
    conditions: Conditions = Conditions(),  # noqa: B008 - immutable
    engine_sha256: str = "",
    expected: str = "",
) -> dict[str, Any]:
    """One row of ``runs`` in benchmark.json (times in ns, sizes in bytes), without block and order.

    Args:
        folder: The engine folder.
        samples: An .npz of real, preprocessed samples; up to 64 are used in rotation.
        limits: How long to warm up and measure.
        scenario: How the engine is used.
        conditions: On which CPUs, with how much memory, and whether the sentinel runs.
        engine_sha256: Refuse any other engine; empty accepts what engine.json says.
        expected: An .npz of expected outputs (see `outputs.outputs_ok`); empty compares nothing.

    Raises:
        Failure: The input does not fit (3), the engine is another one (4), there is too little memory (5), or the
            device or its runtime fails (6).
    """
    folder = engine_folder(folder)
    spec = read_spec(folder)
    if engine_sha256 and engine_sha256 != spec["sha256"]:
        raise Failure(
            REFUSED,
            "this is not the engine to be measured",
            "its sha256 is {}, asked for {}".format(spec["sha256"], engine_sha256),
            "push the engine again",
        )
    single = one_sample_feeds({k: v[:_ROTATION] for k, v in read_inputs(samples).items()}, spec)
    feeds, rows = _batches(single, scenario.batch, spec)
    cpus = affinity.pin(conditions.affinity, conditions.root)
    before = _sentinel("before", conditions)
    try:
        with _limited(conditions.memory_limit_bytes):
            opened = open_and_run(folder, spec, feeds[0], conditions.root, cold=scenario.kind == "cold")
            if scenario.kind == "cold":
                report, got = _cold(opened), [[opened.first]]
            else:
                report, got = _loaded(opened, feeds, scenario, limits, conditions.root)
            report["mem"] = peaks(opened)
            report.update(_stages(opened, feeds[0], scenario))
            report["swap_bytes"] = memory.swapped()
    except (Failure, MemoryError):
        raise
    except engine_errors(spec) as error:
        raise _engine_failed(error) from error
    report["sentinel"] = {"before": before, "after": _sentinel("after", conditions)}
    report.update(_check(spec, got, rows, expected))
    report.update(
        pid=os.getpid(),
        engine_sha256=spec["sha256"],
        runtime_version=opened.runner.runtime_version,
        providers=opened.runner.providers,
        scenario=scenario.kind,
        affinity=cpus,
        import_ns=opened.import_ns,
        load_ns=opened.load_ns,
        first_ns=opened.first_ns,
        n_distinct=len(single),
    )
    return report


@contextlib.contextmanager
def _limited(size_bytes: int | None) -> Iterator[None]:
    """Lifts the limit again, so that whatever happened can be told."""
    if size_bytes is None:
        yield
        return
    memory.limit(size_bytes)
    try:
        yield
    finally:
        memory.limit(None)


def _batches(
    single: list[dict[str, np.ndarray]], batch: int, spec: Mapping[str, Any]
) -> tuple[list[dict[str, np.ndarray]], list[list[int]]]:
    """Feeds of ``batch`` samples each, every sample in at least one, and the samples of each."""
    for item in spec["inputs"]:
        size = item["shape"][0]
        if isinstance(size, int) and size != batch:
            why = "input {!r} takes {} samples at once, not {}".format(item["name"], size, batch)
            raise Failure(
                BAD_INPUT, "the engine's batch size is fixed", why, "give --batch, or export a free batch axis"
            )
    if batch == 1:
        return single, [[i] for i in range(len(single))]
    rows = [[(first + i) % len(single) for i in range(batch)] for first in range(0, len(single), batch)]
    return [{name: np.concatenate([single[i][name] for i in row]) for name in single[0]} for row in rows], rows


def _cold(opened: Opened) -> dict[str, Any]:
    """The one sample of a cold start: load and first inference together."""
    raw = [opened.load_ns + opened.first_ns]
    report = summarise(raw, 1)
    report.update(opened.seen, loop_wall_ns=raw[0], overhead_ns=clock_overhead_ns(), raw=raw, raw_stride=1)
    page_cache = "dropped" if opened.dropped else "warm"
    result = {"page_cache": page_cache, "load_ns": opened.load_ns, "first_ns": opened.first_ns}
    report.update(scenario_result=result, warmup_n=0, warmup_median_ns=None, telemetry=None)
    return report


def _loaded(
    opened: Opened, feeds: list[dict[str, np.ndarray]], scenario: Scenario, limits: Limits, root: str
) -> tuple[dict[str, Any], list[list[list[np.ndarray]]]]:
    """The scenario's report, and the outputs that the timed calls gave: by stream, feed and output."""
    streams = [opened.runner.bind(feeds, opened.first) for _ in range(scenario.concurrency)]
    sampler, since_ns = telemetry.start(root), 0
    try:
        for stream in streams[1:]:
            stream.call(0)
        warm = warm_up(
            streams[0].call,
            min_iterations=limits.warmup_iterations,
            min_s=limits.warmup_s,
            cap_s=limits.warmup_cap_s,
        )
        since_ns = time.monotonic_ns()
        expected_ns = float(np.median(warm))
        report = run_scenario(
            scenario, [stream.call for stream in streams], expected_ns=expected_ns, limits=limits, root=root
        )
    finally:
        sampled = None if sampler is None else sampler.stop(since_ns)
    report.setdefault("scenario_result", None)
    report.update(warmup_n=len(warm), warmup_median_ns=round(expected_ns), telemetry=sampled)
    ran = min(report.pop("calls"), len(feeds))
    return report, [stream.outputs()[:ran] for stream in streams]


def _stages(opened: Opened, feed: Mapping[str, np.ndarray], scenario: Scenario) -> dict[str, Any]:
    """``stages``: the parts of an inference, where the runtime can tell them; measured after the scenario."""
    found = None if scenario.kind == "cold" else opened.runner.stages(feed)
    return {} if found is None else {"stages": found}


def _check(
    spec: Mapping[str, Any], streams: list[list[list[np.ndarray]]], rows: list[list[int]], expected: str
) -> dict[str, Any]:
    """Hash of the first stream's outputs, and whether those of every stream are right."""
    names = [item["name"] for item in spec["outputs"]]
    samples = [sample for row in rows[: len(streams[0])] for sample in row]
    got = [{name: np.concatenate([out[i] for out in stream]) for i, name in enumerate(names)} for stream in streams]
    verdicts = [outputs.outputs_ok(each, samples, expected) for each in got]
    return {
        "outputs_sha256": outputs.digest(got[0]),
        "outputs_ok": False if False in verdicts else verdicts[0],
    }


def _sentinel(when: str, conditions: Conditions) -> dict[str, int] | None:
    if when not in conditions.sentinel:
        return None
    from . import sentinel

    took = sentinel.run(conditions.sentinel_repeats)
    return {"wall_ns": took["wall_ns"], "cpu_ns": took["cpu_ns"]}


def _engine_failed(error: Exception) -> Failure:
    why = " ".join(str(error).split())[:500]
    if out_of_memory(error):
        fix = "free memory, raise the memory limit, or build a smaller engine"
        return Failure(ENVIRONMENT, "there is too little memory to run the engine", why, fix)
    return Failure(DEVICE, "the engine failed while it was measured", why, "run `verify` on the bundle on this device")
