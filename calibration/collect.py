"""Measures activation ranges: the float model runs over the samples in flat memory, one pass feeds every observer."""

from __future__ import annotations

import contextlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, final

import numpy as np

from calibration.blocked import Unordered
from calibration.bootstrap import scale_spread
from calibration.exposure import Watched, culprit, fixed_batch, values_per_run, watched
from calibration.modelfile import model_sha256, open_float
from calibration.observers import METHODS, PENDING, Seen, ranges
from calibration.prepare import prepare
from calibration.rounding_noise import bars_of, expected_snr_db, worst_tensors
from calibration.table import CalibrationTable, TensorFacts
from targets.errors import InputError, nearest
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from calibration.samples import CalibrationSet
    from calibration.sampling import Every

__all__ = ["MEMORY_MB", "METHODS", "collect", "tool_versions"]

MEMORY_MB: Final = 64
_FLOAT_BYTES: Final = 4
_PENDING_SHARE: Final = 4  # of the memory, for values that wait to be counted


def collect(
    model_path: Path,
    samples: CalibrationSet,
    *,
    threads: int,
    methods: Sequence[str] = tuple(METHODS),
    every: Every = "sampled",
    memory_mb: int = MEMORY_MB,
) -> CalibrationTable:
    """Ranges of every activation that some scheme may quantise.

    Every value counts in the extremes (minmax, moving_average). The histograms (percentile, entropy, mse) take every
    value or, ``sampled``, a random one of each eight; the error that this brings is bounded in
    `calibration.observers.Seen`. An activation that nothing but a clamp from zero reads has the range of what the clamp
    lets through: no more of it can matter.

    Args:
        model_path: The float model.
        samples: What to run it on.
        threads: Threads inside one operator, and of the observers.
        methods: Which ranges to read, of `METHODS`.
        every: What the histograms take.
        memory_mb: Limit for the activations held at once. Batches are cut to fit; where one sample's activations are
            more, the tensors are watched in groups, with one pass over the samples for each group. A single tensor of
            one sample above the limit is still held.

    Raises:
        InputError: An unknown method, samples that do not fit the model, an activation with NaN or Inf (tensor and
            sample are named), or a model without anything to observe.
    """
    _check(methods, every, memory_mb)
    proto = open_float(model_path)
    io = io_of(proto)
    samples.check_against(io)
    model = prepare(proto)
    del proto
    tensors = _watch(model, model_path.name)
    fixed = fixed_batch(io)
    per_run = values_per_run(model, tensors, samples.rows(0, samples.batch_size if fixed else 1), threads=threads)
    plan = _Plan.make(per_run, samples.batch_size, memory_mb, fixed=fixed)
    pending = min(PENDING, memory_mb * 10**6 // _FLOAT_BYTES // _PENDING_SHARE // len(tensors.read))
    seen = {name: Seen(every=every, seed=zlib.crc32(name.encode()), pending=pending) for name in tensors.read}
    for group in plan.groups:
        _observe(model, {name: seen[name] for name in group}, samples.in_batches(plan.batch_size), threads, fixed=fixed)
    measured = {name: ranges(seen[name], methods) for name in tensors.read}
    facts = {name: _facts(seen[name], measured[name]) for name in tensors.read}
    source = {name: tensors.clamped.get(name, name) for name in tensors.names}
    return CalibrationTable(
        tensors={name: measured[source[name]] for name in tensors.names},
        samples=len(samples),
        model_sha256=model_sha256(model_path),
        data_sha256=samples.content_sha256,
        versions=tool_versions(),
        every=every,
        facts={name: facts[source[name]] for name in tensors.names},
        sample_ids=samples.ids,
        histograms={name: bars_of(seen[name].histogram) for name in worst_tensors(facts)},
    )


def tool_versions() -> dict[str, str]:
    """Versions of what calibration computes with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "onnx", "onnx-ir", "onnxruntime")}


def _check(methods: Sequence[str], every: str, memory_mb: int) -> None:
    for method in methods:
        if method not in METHODS:
            raise InputError(
                f"no calibration method is called {method!r}", nearest(method, METHODS), "choose one of these"
            )
    if not methods or every not in {"sampled", "all"} or memory_mb < 1:
        raise InputError(
            f"methods={list(methods)}, every={every!r}, memory_mb={memory_mb} is no way to calibrate",
            "it takes at least one method, 'sampled' or 'all', and a positive limit",
            "leave them out for the defaults",
        )


def _watch(model: ir.Model, name: str) -> Watched:
    tensors = watched(model.graph)
    if not tensors.names:
        raise InputError(
            f"{name} has no activation to observe",
            "none of its nodes can run in int8",
            "give a float32 model with convolutions or linear layers",
        )
    return tensors


@final
class _Plan:
    """How many samples run at once, and which tensors are watched together."""

    def __init__(self, groups: Sequence[Sequence[str]], batch_size: int) -> None:
        self.groups, self.batch_size = groups, batch_size

    @classmethod
    def make(cls, per_run: Mapping[str, int], batch_size: int, memory_mb: int, *, fixed: bool) -> _Plan:
        """``per_run``: values of each tensor in one run of one sample, or of the fixed batch."""
        limit = memory_mb * 10**6 // _FLOAT_BYTES
        groups: list[list[str]] = [[]]
        held = 0
        for name, count in per_run.items():
            if groups[-1] and held + count > limit:
                groups.append([])
                held = 0
            groups[-1].append(name)
            held += count
        fits = limit // max(sum(per_run.values()), 1) if len(groups) == 1 else 1
        return cls(groups, batch_size if fixed else max(1, min(batch_size, fits)))


def _observe(model: ir.Model, seen: Mapping[str, Seen], samples: CalibrationSet, threads: int, *, fixed: bool) -> None:
    """One pass over the samples for these tensors."""
    inputs = {str(value.name) for value in model.graph.inputs}
    names = [name for name in seen if name not in inputs]
    session = Unordered(model, names, threads=threads)
    first = 0
    with _mapper(threads) as spread:
        for batch in samples:
            count = len(next(iter(batch.values())))
            values = dict(zip(names, session.run(batch), strict=True)) | batch
            finite = spread([(seen[name], values[name], count) for name in seen])
            del values  # before the next run makes new ones
            if (bad := next((name for name, good in zip(seen, finite, strict=True) if not good), None)) is not None:
                numbers = [samples.number(first + index) for index in range(count)]
                raise culprit(model, bad, batch, numbers, threads=threads, fixed=fixed)
            first += count


@contextlib.contextmanager
def _mapper(threads: int) -> Iterator[_Spread]:
    if threads == 1:
        yield _Spread(None)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="observe") as pool:
        yield _Spread(pool)


@final
class _Spread:
    """Feeds tensors to their records, each tensor in one thread: results do not depend on the number of threads."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def __call__(self, work: Sequence[tuple[Seen, NDArray[np.generic], int]]) -> Iterable[bool]:
        return [_feed(job) for job in work] if self._pool is None else [*self._pool.map(_feed, work)]


def _feed(job: tuple[Seen, NDArray[np.generic], int]) -> bool:
    seen, array, samples = job
    return seen.update(array.astype(np.float32, copy=False), samples)


def _facts(seen: Seen, measured: Mapping[str, tuple[float, float]]) -> TensorFacts:
    histogram = seen.histogram
    observed = int(histogram.counts.sum())
    return TensorFacts(
        count=seen.count,
        histogram_count=observed,
        low=seen.extremes.range()[0],
        high=seen.extremes.range()[1],
        zeros_ratio=histogram.zeros / observed,
        scale_spread_ratio=scale_spread(seen.extremes.by_sample()),
        outside_ratio={method: histogram.share_outside(*pair) for method, pair in measured.items()},
        snr_db={
            method: snr for method, pair in measured.items() if (snr := expected_snr_db(histogram, *pair)) is not None
        },
    )
