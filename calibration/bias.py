"""Bias correction: what quantisation shifts a layer's mean output by, channel by channel, goes into its bias."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.biasless import add_zero_biases, remove_biases
from calibration.modelfile import open_float, runnable
from calibration.prepare import main_nodes, prepare
from calibration.quantized import QuantizedGraph, read_quantized
from calibration.reductions import add_channel_means
from calibration.session import Session
from calibration.subset import spread
from targets.errors import InputError
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from calibration.samples import CalibrationSet

Array = NDArray[np.generic]
Rows = NDArray[np.float32]
RUNS: Final = 64
_SAMPLES: Final = 256
_HELD_BYTES: Final = 1 << 28
_MEAN: Final = "__mean_of__"
_MEANT: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBias:
    """What became of one layer's bias.

    Attributes:
        node: The layer.
        shift_ratio: Root mean square over the channels of the shift, over that of the float output's mean; 0 where
            nothing was measured.
        kept: Whether the correction is in the file.
        reason: Why not, empty when it is.
    """

    node: str
    shift_ratio: float
    kept: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasReport:
    """What bias correction did.

    Attributes:
        layers: Every node with a quantised weight, in graph order.
        before_db: Signal-to-noise ratio of the outputs on the samples used, before.
        after_db: After.
        samples: How many samples were used.
        runs: How often the quantised model ran over them.
        seconds: Time taken.
    """

    layers: tuple[LayerBias, ...]
    before_db: float
    after_db: float
    samples: int
    runs: int
    seconds: float


def correct_bias(
    float_model: Path, quantized: Path, samples: CalibrationSet, out: Path, *, threads: int, runs: int = RUNS
) -> BiasReport:
    """Takes the mean error of each layer's output channels out of its bias (Nagel et al., arXiv 1906.04721, §4.2).

    The error is measured on samples, from the inputs of the network on, so a layer sees what the corrected layers
    before it give. Layers that do not depend on each other are corrected together; where there are more such steps
    than ``runs``, neighbouring ones are joined. Every channel's shift shrinks by what its own standard error explains.
    A step stays only if the error of the network's outputs falls on the samples: the result is never worse there.

    Args:
        float_model: The float model.
        quantized: Its Q/DQ file.
        samples: At most 256 of them are used, fewer where the model's outputs are large.
        out: Where to write the corrected file; may be ``quantized``.
        threads: Threads inside one operator.
        runs: Most steps, each of which runs the quantised model once over the samples.

    Raises:
        InputError: The samples do not fit, the files are not of one model, or ``runs`` is below 1.
    """
    started = time.monotonic()
    if runs < 1:
        raise InputError(f"runs is {runs}", "one step runs the model once", "give 1 or more")
    parent = open_float(float_model)
    samples.check_against(io_of(parent))
    prepared = prepare(parent)
    model = open_onnx(quantized)
    added = add_zero_biases(model)
    graph = read_quantized(model)
    steps = _steps(graph, _layers(graph, prepared.graph), runs)
    used = _limited(samples, prepared, threads)
    target = _Target.of(prepared, [name for step in steps for name in step], used, threads)
    work = _Correction(graph, target, used, threads)
    measured = work.run_steps(steps)
    remove_biases(model, [name for name in added if not graph.bias_values(name).any()])
    graph.save(out)
    return BiasReport(
        layers=tuple(measured.get(name) or _left(name, graph) for name in graph.weights),
        before_db=_db(work.first_error),
        after_db=_db(work.error),
        samples=len(used),
        runs=work.runs,
        seconds=time.monotonic() - started,
    )


def _left(name: str, graph: QuantizedGraph) -> LayerBias:
    reason = "it has no bias" if name not in graph.biases else "the float model has no such node"
    return LayerBias(node=name, shift_ratio=0.0, kept=False, reason=reason)


def _layers(graph: QuantizedGraph, parent: ir.Graph) -> list[str]:
    """Nodes with a bias that the float model has too, in graph order."""
    known = {str(node.name): node.op_type for node in main_nodes(parent)}
    foreign = [name for name in graph.weights if name not in known]
    if len(foreign) == len(graph.weights):
        raise InputError(
            f"the float model has no node {foreign[0]!r} ({len(foreign)} in all)",
            "the quantised file was made from another model",
            "give the float model it was made from",
        )
    return [name for name in graph.weights if name in graph.biases and known.get(name) in _MEANT]


def _steps(graph: QuantizedGraph, layers: Sequence[str], runs: int) -> list[list[str]]:
    """Layers in the order of correction: by how many others lie before them, joined to at most ``runs`` steps."""
    depth: dict[str, int] = {}
    levels: dict[int, list[str]] = {}
    wanted = set(layers)
    for node in graph.model.graph.node:
        level = max((depth.get(name, 0) for name in node.input), default=0)
        if node.name in wanted:
            levels.setdefault(level, []).append(node.name)
            level += 1
        for name in node.output:
            depth[name] = level
    ordered = [levels[level] for level in sorted(levels)]
    parts = np.array_split(np.arange(len(ordered)), min(runs, len(ordered))) if ordered else []
    return [[name for index in part for name in ordered[int(index)]] for part in parts]


def _limited(samples: CalibrationSet, prepared: ir.Model, threads: int) -> CalibrationSet:
    """As many samples as are needed and as the float outputs leave room for, spread over the whole set."""
    first = samples.rows(0, samples.batch_size)
    with runnable(prepared) as source:
        outputs = Session(source, threads=threads, optimize=True).run(None, first)
    each = max(sum(array.nbytes for array in outputs) // len(next(iter(first.values()))), 1)
    return spread(samples, min(_SAMPLES, max(_HELD_BYTES // each, 1)), prepared.graph)


@final
class _Target:
    """What the float model gives: each sample's channel means of every layer, and the outputs.

    Attributes:
        means: Layer -> ``(samples, channels)``.
        outputs: One list of arrays a batch.
        power: Sum of the squared outputs.
    """

    def __init__(self, means: Mapping[str, Rows], outputs: Sequence[Sequence[Array]]) -> None:
        self.means, self.outputs = means, outputs
        self.power = sum(_squares(array) for batch in outputs for array in batch)

    @classmethod
    def of(cls, prepared: ir.Model, layers: Sequence[str], samples: CalibrationSet, threads: int) -> _Target:
        with _watching(prepared, layers, threads) as watch:
            batches = [watch(batch) for batch in samples]
        means = {name: np.concatenate([batch[1][name] for batch in batches]) for name in layers}
        return cls(means, [batch[0] for batch in batches])


@final
class _Correction:
    """Corrects the steps of one graph, once."""

    def __init__(self, graph: QuantizedGraph, target: _Target, samples: CalibrationSet, threads: int) -> None:
        self._graph, self._target, self._samples, self._threads = graph, target, samples, threads
        self.runs = 0
        self.first_error = self.error = 0.0

    def run_steps(self, steps: Sequence[Sequence[str]]) -> dict[str, LayerBias]:
        """Each run judges the step before and measures the next; after a step that is taken back it is repeated."""
        found: dict[str, LayerBias] = {}
        error, shifts = self._measure(steps[0] if steps else ())
        self.first_error = self.error = error
        for index, step in enumerate(steps):
            following = steps[index + 1] if index + 1 < len(steps) else ()
            before = {name: self._graph.bias_values(name) for name in step}
            refused = {name for name in step if not self._shift(name, shifts[name])}
            error, later = self._measure(following)
            kept = error < self.error
            if kept:
                self.error = error
            else:
                for name, values in before.items():
                    self._graph.write_bias(name, values)
                later = self._measure(following)[1] if following else {}
            reason = "" if kept else "the error of the outputs did not fall"
            for name in step:
                why = "the corrected bias does not fit int32" if name in refused else reason
                found[name] = LayerBias(
                    node=name, shift_ratio=self._ratio(name, shifts[name]), kept=not why, reason=why
                )
            shifts = later
        return found

    def _shift(self, name: str, shift: NDArray[np.float64]) -> bool:
        try:
            self._graph.write_bias(name, self._graph.bias_values(name) + shift)
        except InputError:
            return False
        return True

    def _ratio(self, name: str, shift: NDArray[np.float64]) -> float:
        level = float(np.sqrt(np.mean(self._target.means[name].astype(np.float64).mean(axis=0) ** 2)))
        return round(float(np.sqrt(np.mean(shift**2))) / level, 9) if level else 0.0

    def _measure(self, layers: Sequence[str]) -> tuple[float, dict[str, NDArray[np.float64]]]:
        """Noise-to-signal ratio of the outputs, and the correction of each of these layers."""
        self.runs += 1
        noise, means = 0.0, list[dict[str, Rows]]()
        with _watching(ir.from_proto(self._graph.model), layers, self._threads) as watch:
            for batch, reference in zip(self._samples, self._target.outputs, strict=True):
                outputs, found = watch(batch)
                noise += _error(outputs, reference)
                means.append(found)
        shifts = {name: self._correction(name, np.concatenate([found[name] for found in means])) for name in layers}
        return noise / (self._target.power or 1.0), shifts

    def _correction(self, name: str, means: Rows) -> NDArray[np.float64]:
        """The mean error of each channel, less the part that its standard error makes doubtful."""
        errors = self._target.means[name].astype(np.float64) - means
        mean = errors.mean(axis=0)
        variance = errors.var(axis=0, ddof=1) / len(errors) if len(errors) > 1 else np.zeros_like(mean)
        certain = np.maximum(1.0 - variance / np.maximum(mean**2, np.finfo(np.float64).tiny), 0.0)
        return np.asarray(mean * certain, np.float64)


@contextmanager
def _watching(
    model: ir.Model, layers: Sequence[str], threads: int
) -> Iterator[Callable[[Mapping[str, Array]], tuple[list[Array], dict[str, Rows]]]]:
    """A function that runs a batch and gives the model's own outputs and the channel means of these layers' outputs."""
    outputs = [str(value.name) for value in model.graph.outputs]
    nodes = {str(node.name): node for node in main_nodes(model.graph)}
    watched = {f"{_MEAN}{index}": nodes[name].outputs[0] for index, name in enumerate(layers)}
    add_channel_means(model.graph, watched)
    with runnable(model) as source:
        session = Session(source, threads=threads, optimize=False)

    def run(batch: Mapping[str, Array]) -> tuple[list[Array], dict[str, Rows]]:
        found = session.run([*outputs, *watched], batch)
        means = [np.asarray(array, np.float32) for array in found[len(outputs) :]]
        return found[: len(outputs)], dict(zip(layers, means, strict=True))

    yield run


def _squares(array: Array) -> float:
    return float(np.sum(np.square(array.astype(np.float64))))


def _error(outputs: Sequence[Array], reference: Sequence[Array]) -> float:
    pairs = zip(outputs, reference, strict=True)
    return sum(_squares(a.astype(np.float64) - b.astype(np.float64)) for a, b in pairs)


def _db(error: float) -> float:
    return round(-10.0 * math.log10(max(error, 1e-20)), 3)
