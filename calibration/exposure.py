"""Which activations of a float graph are watched, how large they are, and which one first became NaN or Inf."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.masks import infinite_tensors
from calibration.modelfile import runnable
from calibration.prepare import constant, main_nodes
from calibration.session import Session
from targets.errors import InputError
from targets.scheme import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from targets.onnxfile import ModelIo

    Batch = Mapping[str, NDArray[np.generic]]

_CLAMPS: Final = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The activations that some scheme may quantise.

    Attributes:
        names: All of them, in the order of the graph.
        clamped: Activation that only a clamp from zero reads -> that clamp's output. Quantised or not, what lies
            outside the clamp changes nothing, so the clamp's output is watched instead, and the engine may join both.
    """

    names: tuple[str, ...]
    clamped: Mapping[str, str]

    @property
    def read(self) -> tuple[str, ...]:
        """Those whose values are read."""
        return tuple(name for name in self.names if name not in self.clamped)


def watched(graph: ir.Graph) -> Watched:
    """What to watch of a prepared graph: nothing that is infinite on purpose."""
    found: dict[str, None] = {}
    clamped: dict[str, str] = {}
    operators, infinite = _operators(), infinite_tensors(graph)
    for node in main_nodes(graph):
        if node.op_type not in operators:
            continue
        for value in (*node.inputs, *node.outputs):
            if value is None or value.name in infinite:
                continue
            if value.dtype in {None, ir.DataType.FLOAT} and constant(value) is None:
                found[str(value.name)] = None
        if _hides(node):
            clamped[str(node.inputs[0].name)] = str(node.outputs[0].name)  # type: ignore[union-attr]
    for name in reversed(clamped):  # a clamp behind a clamp
        clamped[name] = clamped.get(clamped[name], clamped[name])
    return Watched(names=tuple(found), clamped={k: v for k, v in clamped.items() if k in found and v in found})


@contextmanager
def exposed(graph: ir.Graph, names: Sequence[str]) -> Iterator[None]:
    """Makes activations outputs of the graph for a while."""
    values = {str(value.name): value for node in main_nodes(graph) for value in node.outputs}
    added = [values[name] for name in names if not values[name].is_graph_output()]
    for value in added:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(value)
    yield
    for value in added:
        graph.outputs.remove(value)


def values_per_run(model: ir.Model, tensors: Watched, batch: Batch, *, threads: int) -> dict[str, int]:
    """How many values each watched tensor has in one run of ``batch``.

    Read from the shapes in the graph or, where they do not tell, measured inside the graph: no activation is held.
    """
    told = _told_sizes(model.graph, tensors.read, batch)
    if told is not None:
        return told
    inputs = {name: int(array.size) for name, array in batch.items()}
    names = [name for name in tensors.read if name not in inputs]
    found = []
    with _reduced(model.graph, names, _size, ir.DataType.INT64) as sizes, runnable(model) as file:
        if sizes:
            found = Session(file, threads=threads, optimize=True).run(sizes, batch)
    measured = {name: int(np.asarray(size)) for name, size in zip(names, found, strict=True)} | inputs
    return {name: measured[name] for name in tensors.read}


def _told_sizes(graph: ir.Graph, names: Sequence[str], batch: Batch) -> dict[str, int] | None:
    """From inferred shapes with the names of free dimensions filled in; None where one is not known."""
    known: dict[str | None, int] = {}
    for value in graph.inputs:
        for dim, size in zip(value.shape or (), batch[str(value.name)].shape, strict=False):
            if isinstance(dim, ir.SymbolicDim):
                known[dim.value] = size
    known.pop(None, None)
    values = {str(value.name): value for node in main_nodes(graph) for value in node.outputs}
    values |= {str(value.name): value for value in graph.inputs}
    sizes: dict[str, int] = {}
    for name in names:
        shape = values[name].shape
        dims = [known.get(d.value) if isinstance(d, ir.SymbolicDim) else d for d in shape] if shape else [None]
        if any(dim is None for dim in dims):
            return None
        sizes[name] = math.prod(dim for dim in dims if dim is not None)
    return sizes


def fixed_batch(io: ModelIo) -> bool:
    """Whether the model takes batches of one size only."""
    return any(isinstance(spec["shape"][0], int) for spec in io["inputs"] if spec["shape"])


def culprit(
    model: ir.Model, name: str, batch: Batch, numbers: Sequence[int], *, threads: int, fixed: bool
) -> InputError:
    """The error that names where NaN or Inf began, and the sample; no activation is held.

    Args:
        model: The prepared float model.
        name: An activation in which it was seen.
        batch: The batch that did it.
        numbers: What its samples are called, see `CalibrationSet.number`.
        threads: Threads inside one operator.
        fixed: The model takes only batches of this size, not single samples.
    """
    seen = dict.fromkeys([*(n for n in watched(model.graph).names if n not in batch), name])
    made = [str(v.name) for node in main_nodes(model.graph) for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    names = [n for n in dict.fromkeys([*made, *seen]) if n not in batch]
    count = len(next(iter(batch.values())))
    tensor, sample = name, numbers[0]
    with _reduced(model.graph, names, _difference, ir.DataType.FLOAT) as checks, runnable(model) as file:
        session = Session(file, threads=threads, optimize=False)
        for index in range(0, count, count if fixed else 1):
            one = batch if fixed else {key: array[index : index + 1] for key, array in batch.items()}
            found = zip(names, session.run(checks, one), strict=True)
            bad = {n for n, value in found if not np.isfinite(value).all()}
            first = next((n for n in seen if n in bad), None)
            if first is not None:
                tensor, sample = _origin(model.graph, first, bad), numbers[index]
                break
    where = f"in the batch of {count} that starts at sample {sample}" if fixed else f"at sample {sample}"
    return InputError(
        f"activation {tensor!r} becomes NaN or Inf {where}",
        "the float model overflows or divides by zero there, so no range can be measured",
        f"look at sample {sample} and its preprocessing, or repair the model",
    )


def _origin(graph: ir.Graph, name: str, bad: Collection[str]) -> str:
    """Back from one tensor along those with NaN or Inf; what became finite again on the way here (a mask) is passed."""
    makers = {str(value.name): node for node in main_nodes(graph) for value in node.outputs}
    while name in makers:
        before = next((str(v.name) for v in makers[name].inputs if v is not None and v.name in bad), None)
        if before is None:
            return name
        name = before
    return name


@contextmanager
def _reduced(
    graph: ir.Graph, names: Sequence[str], nodes: Callable[[ir.Value], list[ir.Node]], dtype: ir.DataType
) -> Iterator[list[str]]:
    """Adds nodes that reduce each activation to one number, for a while; names of those outputs."""
    values = {str(value.name): value for node in main_nodes(graph) for value in node.outputs}
    added = [nodes(values[name]) for name in names]
    results = [chain[-1].outputs[0] for chain in added]
    for index, (chain, result) in enumerate(zip(added, results, strict=True)):
        graph.extend(chain)
        result.name, result.type, result.shape = f"__reduced_{index}", ir.TensorType(dtype), ir.Shape(())
        graph.outputs.append(result)
    yield [str(result.name) for result in results]
    for result in results:
        graph.outputs.remove(result)
    graph.remove([node for chain in added for node in chain], safe=True)


def _size(value: ir.Value) -> list[ir.Node]:
    return [ir.node("Size", [value])]


def _difference(value: ir.Value) -> list[ir.Node]:
    """The sum of x - x: 0, or NaN where an x is NaN or Inf."""
    difference = ir.node("Sub", [value, value])
    return [difference, ir.node("ReduceSum", [difference.outputs[0]], {"keepdims": 0})]


def _hides(node: ir.Node) -> bool:
    """Whether a clamp from zero is all that its source is read by."""
    source = node.inputs[0]
    if node.op_type not in _CLAMPS or source is None or source.producer() is None or source.is_graph_output():
        return False
    low, high = (0.0, math.inf) if node.op_type == "Relu" else _bounds(node)
    return len(source.uses()) == 1 and low == 0.0 and high > 0.0


def _bounds(node: ir.Node) -> tuple[float, float]:
    """What a Clip lets through; NaN for limits computed at run time."""
    ends = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            array = constant(value)
            ends[index] = math.nan if array is None else float(array.astype(np.float64).reshape(-1)[0])
    return ends[0], ends[1]


def _operators() -> frozenset[str]:
    return _CLAMPS.union(
        *(
            s.compute_operators | s.follow_operators | s.same_scale_operators | s.skip_operators
            for s in SCHEMES.values()
        )
    )
