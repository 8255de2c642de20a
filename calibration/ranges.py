"""Chooses each activation's range by the error that it brings to the outputs of the layers that read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray

from calibration.exposure import exposed
from calibration.modelfile import model_sha256, open_float, runnable
from calibration.numerics import activation_affine
from calibration.opsets import prepared_for
from calibration.placement import place
from calibration.prepare import main_nodes
from calibration.range_errors import RegionErrors
from calibration.regions import Region, region_model, regions
from calibration.session import Session
from calibration.subset import spread
from targets.errors import InputError
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from calibration.placed import Placement
    from calibration.samples import CalibrationSet
    from calibration.table import CalibrationTable
    from targets.scheme import QuantScheme

Array = NDArray[np.generic]
Range = tuple[float, float]
SAMPLES: Final = 1024
MEMORY_MB: Final = 128
_FEW: Final = 64
_ENOUGH: Final = 1 << 20
_FLOAT_BYTES: Final = 4
_COARSE: Final = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.55, 0.45, 0.35, 0.25)
_FINE: Final = (0.94, 0.97, 1.03, 1.06)


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeChoice:
    """What was chosen for one scale group.

    Attributes:
        tensor: The activation that names the group.
        start: Its range by the starting method.
        chosen: Its range now.
        error_before: Error power of the outputs of its readers over their power, summed over the readers.
        error_after: The same with the chosen range.
        tried: How many ranges were tried.
    """

    tensor: str
    start: Range
    chosen: Range
    error_before: float
    error_after: float
    tried: int


def choose_ranges(
    model_path: Path,
    table: CalibrationTable,
    scheme: QuantScheme,
    samples: CalibrationSet,
    *,
    method: str,
    threads: int,
    float_nodes: Collection[str] = (),
    max_samples: int = SAMPLES,
    memory_mb: int = MEMORY_MB,
) -> tuple[dict[str, Range], tuple[RangeChoice, ...]]:
    """Ranges to give to `calibration.qdq.quantize_model`, for every quantised activation.

    For each scale group the float layers that read it run once with each candidate: the ranges of all methods of the
    table, shares of the largest of them, and finer steps around the best; low and high ends move apart from each other.
    The error counted is that of the readers' outputs, behind the clamp that follows them. At most 40 candidates are
    tried, so the time is bounded by that many runs of a layer over its samples.

    Args:
        model_path: The float model.
        table: Ranges measured on it.
        scheme: The dialect.
        samples: What the table was measured on, or others.
        method: Where to start; no choice has a larger error than it, on the samples used.
        threads: Threads inside one operator.
        float_nodes: As for `quantize_model`.
        max_samples: Most samples to use; large tensors use fewer, down to 64.
        memory_mb: Limit for the activations held at once; a single group that needs more is cut to fewer samples.

    Raises:
        InputError: Table or samples are of another model, or the table lacks the method or a tensor.
    """
    if max_samples < 1 or memory_mb < 1:
        raise InputError(
            f"max_samples={max_samples}, memory_mb={memory_mb}",
            "both must be positive",
            "leave them out for the defaults",
        )
    proto = open_float(model_path)
    samples.check_against(io_of(proto))
    table.check_model(model_sha256(model_path))
    model = prepared_for(proto, scheme)
    placement = place(model.graph, scheme, float_nodes=float_nodes)
    choice = _Choice(model, placement, scheme, table, method)
    choices = []
    tensors = _Tensors(model, samples, threads)
    room = memory_mb * 2**20
    sizes = tensors.sizes({name for region in choice.regions for name in region.tensors})
    for count, part in _in_memory(choice.regions, sizes, room, min(max_samples, len(samples))):
        batches = tensors.values({name for region in part for name in region.tensors}, count)
        choices += [choice.best(region, batches, threads) for region in part]
    order = {region.root: index for index, region in enumerate(choice.regions)}
    choices.sort(key=lambda one: order[one.tensor])
    found = {one.tensor: one.chosen for one in choices}
    return {name: found[root] for name, root in placement.roots.items()}, tuple(choices)


@final
class _Choice:
    """Searches the ranges of one model."""

    def __init__(
        self, model: ir.Model, placement: Placement, scheme: QuantScheme, table: CalibrationTable, method: str
    ) -> None:
        self._model, self._scheme, self._method = model, scheme, method
        self._groups = {name: _group_ranges(placement, table.ranges(name)) for name in (method, *table.methods)}
        self.regions = regions(model.graph, placement)
        self._fixed = {placement.roots[name] for name in placement.fixed}
        self._values = {str(value.name): value for value in model.graph.inputs}
        self._values |= {str(value.name): value for node in main_nodes(model.graph) for value in node.outputs}

    def best(self, region: Region, batches: Sequence[Mapping[str, Array]], threads: int) -> RangeChoice:
        start = self._groups[self._method][region.root]
        if not region.ends:
            return RangeChoice(
                tensor=region.root, start=start, chosen=start, error_before=0.0, error_after=0.0, tried=0
            )
        opset = self._model.graph.opset_imports[""]
        part = region_model(region, self._values, self._model.ir_version, opset, self._scheme.activation_dtype)
        with runnable(part) as source:
            session = Session(source, threads=threads, optimize=False)
        measured = RegionErrors(session, region, batches, activation_affine(*start, self._scheme))
        tried: dict[Range, float] = {}

        def error(candidate: Range) -> float:
            if candidate not in tried:
                tried[candidate] = measured(activation_affine(*candidate, self._scheme))
            return tried[candidate]

        chosen = start
        for candidates in () if region.root in self._fixed else self._rounds(region.root):
            for candidate in candidates(chosen):
                if error(candidate) < error(chosen):
                    chosen = candidate
        return RangeChoice(
            tensor=region.root,
            start=start,
            chosen=chosen,
            error_before=error(start),
            error_after=error(chosen),
            tried=len(tried),
        )

    def _rounds(self, root: str) -> Iterator[Callable[[Range], Iterable[Range]]]:
        """Each gives the candidates that follow from the best so far."""
        measured = list(dict.fromkeys(groups[root] for groups in self._groups.values()))
        low, high = min(pair[0] for pair in measured), max(pair[1] for pair in measured)
        yield lambda _: measured
        yield lambda _: [(low * share, high * share) for share in _COARSE]
        if low < 0.0 < high and not self._scheme.activation_symmetric:
            yield lambda best: [(best[0], high * share) for share in _COARSE]
            yield lambda best: [(low * share, best[1]) for share in _COARSE]
            yield lambda best: [(best[0] * share, best[1]) for share in _FINE]
            yield lambda best: [(best[0], best[1] * share) for share in _FINE]
        else:
            yield lambda best: [(best[0] * share, best[1] * share) for share in _FINE]


def _group_ranges(placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """As `calibration.qdq` joins them: one for each group, cut to what folded clamps let through."""
    groups: dict[str, Range] = {}
    for name, root in placement.roots.items():
        if name not in ranges:
            raise InputError(
                f"the calibration table has no range of tensor {name!r}",
                "it was collected for other tensors",
                "collect the ranges again",
            )
        low, high = ranges[name]
        if name in placement.caps:
            low, high = 0.0, min(max(high, 0.0), placement.caps[name])
        before = groups.get(root, (math.inf, -math.inf))
        groups[root] = min(before[0], low, 0.0), max(before[1], high, 0.0)
    return groups | {placement.roots[name]: pair for name, pair in placement.fixed.items()}


def _in_memory(
    found: Iterable[Region], sizes: Mapping[str, int], room: int, most: int
) -> Iterator[tuple[int, list[Region]]]:
    """Parts of regions whose tensors fit the memory together, at least one in each, and how many samples they use."""
    wanted = [(region, _count(region, sizes, most)) for region in found]
    for count in sorted({count for _, count in wanted}):
        part: list[Region] = []
        tensors: set[str] = set()
        for region in (region for region, its in wanted if its == count):
            together = tensors | set(region.tensors)
            if part and count * sum(sizes[name] for name in together) > room:
                yield _fitting(part, sizes, room, count), part
                part, together = [], set(region.tensors)
            part.append(region)
            tensors = together
        if part:
            yield _fitting(part, sizes, room, count), part


def _count(region: Region, sizes: Mapping[str, int], most: int) -> int:
    """Samples enough for a million values, in powers of two: rare large values of small tensors must be seen."""
    values = max(sum(sizes[name] for name in region.sources) // _FLOAT_BYTES, 1)
    return min(most, max(_FEW, 1 << (_ENOUGH // values).bit_length()))


def _fitting(part: Iterable[Region], sizes: Mapping[str, int], room: int, count: int) -> int:
    needed = sum(sizes[name] for name in {name for region in part for name in region.tensors})
    return max(min(count, room // max(needed, 1)), 1)


@final
class _Tensors:
    """Reads float activations of one model."""

    def __init__(self, model: ir.Model, samples: CalibrationSet, threads: int) -> None:
        self._model, self._samples, self._threads = model, samples, threads

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of each tensor in one sample, from one sample (or one batch, where batches have a fixed size)."""
        one = spread(self._samples, 1, self._model.graph)
        few = one.rows(0, one.batch_size)
        count = len(next(iter(few.values())))
        return {name: array.nbytes // count for name, array in self._read([*names], [few])[0].items()}

    def values(self, names: Collection[str], count: int) -> list[dict[str, Array]]:
        """The tensors over that many samples, batch by batch."""
        return self._read([*names], spread(self._samples, count, self._model.graph))

    def _read(self, names: list[str], batches: Iterable[Mapping[str, Array]]) -> list[dict[str, Array]]:
        given = {str(value.name) for value in self._model.graph.inputs}
        inner = [name for name in names if name not in given]
        with exposed(self._model.graph, inner), runnable(self._model) as source:
            session = Session(source, threads=self._threads, optimize=True)
        found = []
        for batch in batches:
            outputs = session.run(inner, batch) if inner else []
            known = {**batch} | dict(zip(inner, outputs, strict=True))
            found.append({name: known[name] for name in names})
        return found
