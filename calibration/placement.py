"""Decides which tensors of a graph are quantised, which share a scale and what stays float; the rules are data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.prepare import constant, main_nodes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from targets.scheme import QuantScheme

_CLAMPS: Final = frozenset({"Relu", "Clip"})
_MATRIX: Final = 2
_BIAS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where int8 goes.

    Attributes:
        roots: Quantised activation -> the activation that names its scale group.
        weights: Node -> (weight tensor, output channel axis).
        constants: Constant operands of element-wise nodes, quantised like activations.
        folded: Relu and Clip nodes that the range of their output replaces.
        caps: Quantised activation -> the largest value its folded Clip lets through.
        moved: Nodes that only move values and therefore run on the integers themselves.
        int8: Nodes that run in int8, folded ones included.
        reasons: Every other node -> why it stays float.
    """

    roots: Mapping[str, str]
    weights: Mapping[str, tuple[str, int]]
    constants: frozenset[str]
    folded: frozenset[str]
    caps: Mapping[str, float]
    moved: frozenset[str]
    int8: frozenset[str]
    reasons: Mapping[str, str]


def place(graph: ir.Graph, scheme: QuantScheme) -> Placement:
    """The placement of a prepared float graph under a scheme."""
    weights: dict[str, tuple[str, int]] = {}
    reasons: dict[str, str] = {}
    for node in main_nodes(graph):
        found = _weight_of(node) if node.op_type in scheme.compute_operators else f"{node.op_type} is float here"
        if isinstance(found, str):
            reasons[str(node.name)] = found
        else:
            weights[str(node.name)] = found
    quantised = _spread(graph, scheme, weights, reasons)
    int8 = frozenset(str(node.name) for node in main_nodes(graph) if str(node.name) not in reasons)
    folded, caps = _fold(graph, scheme, int8, quantised)
    moved = frozenset(
        str(n.name) for n in main_nodes(graph) if n.name in int8 and n.op_type in scheme.same_scale_operators
    )
    return Placement(
        roots=_groups(graph, moved, int8, quantised, _carried_caps(graph, caps, moved)),
        weights=weights,
        constants=frozenset(
            name
            for node in main_nodes(graph)
            if node.name in int8 and node.op_type in scheme.follow_operators
            for name in _constant_operands(node)
        ),
        folded=folded,
        caps=caps,
        moved=moved,
        int8=int8,
        reasons=reasons,
    )


def weight_axis(node: ir.Node) -> int:
    """The output channel axis of a compute node's weight (input 1)."""
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if _int(node, "transB", 0) else 1
    rank = len(node.inputs[1].shape or ()) if node.inputs[1] is not None else 0
    return 0 if node.op_type == "Conv" else max(rank - 1, 0)


def bias_row(bias: ir.Value | None, channels: int) -> NDArray[np.generic] | None:
    """A constant bias as one value for each output channel, ``(channels,)``; None where it cannot be written so."""
    array = constant(bias)
    if array is None or array.shape[:-1] != (1,) * (array.ndim - 1) or array.size not in {1, channels}:
        return None
    return np.broadcast_to(array.reshape(-1), (channels,))


def _weight_of(node: ir.Node) -> tuple[str, int] | str:
    """Weight and axis of a compute node, or why it stays float."""
    source, weight = node.inputs[0], node.inputs[1]
    array = constant(weight)
    if weight is None or array is None:
        return "its weight is not a constant"
    gemm = node.op_type == "Gemm"
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    axis = weight_axis(node)
    scaled = gemm and (_float(node, "alpha", 1.0), _float(node, "beta", 1.0)) != (1.0, 1.0)
    hindrances = {
        "only float32 is quantised": array.dtype != np.float32 or not _is_float32(source),
        "its weight is empty": array.size == 0,
        "its input is a constant": constant(source) is not None,
        "Gemm with alpha or beta other than 1 has no int8 form": scaled,
        "Gemm with transA has no int8 form": gemm and _int(node, "transA", 0) == 1,
        "its bias is not one constant for each output channel": bias is not None
        and array.size > 0
        and bias_row(bias, array.shape[axis]) is None,
        "MatMul with a batched weight has no per-channel int8 form": node.op_type == "MatMul" and array.ndim != _MATRIX,
    }
    return next((why for why, holds in hindrances.items() if holds), (str(weight.name), axis))


def _spread(
    graph: ir.Graph, scheme: QuantScheme, weights: Mapping[str, tuple[str, int]], reasons: dict[str, str]
) -> dict[str, ir.Value]:
    """Quantised activations: what compute nodes read and write, then what follows from it."""
    quantised: dict[str, ir.Value] = {}
    for node in main_nodes(graph):
        if node.name in weights:
            _add(quantised, node.inputs[0])
            if scheme.quantize_graph_output or not node.outputs[0].is_graph_output():
                _add(quantised, node.outputs[0])
    follow = scheme.follow_operators | _CLAMPS
    for node in main_nodes(graph):
        name = str(node.name)
        if name in weights or node.op_type not in follow | scheme.same_scale_operators or len(node.outputs) != 1:
            continue
        why = _follows(node, scheme, quantised)
        if why is None:
            del reasons[name]
            _add(quantised, node.outputs[0])
        else:
            reasons[name] = why
    return quantised


def _follows(node: ir.Node, scheme: QuantScheme, quantised: Mapping[str, ir.Value]) -> str | None:
    """None when the node runs in int8 behind its quantised inputs, else why not."""
    moves = node.op_type in scheme.same_scale_operators or node.op_type in _CLAMPS
    operands = node.inputs[:1] if moves else node.inputs
    if not _is_float32(node.outputs[0]) or (node.outputs[0].is_graph_output() and not scheme.quantize_graph_output):
        return "its output is not a quantised float32 tensor"
    for value in operands:
        constants = not moves and value is not None and (array := constant(value)) is not None and array.size > 0
        if value is None or (value.name not in quantised and not constants):
            return f"its input {value.name if value is not None else ''!r} is float"
    if all(constant(value) is not None for value in operands):
        return "all its inputs are constants"
    if node.op_type == "Pad" and not _pads_zero(node):
        return "it pads with a value other than zero"
    return None


def _fold(
    graph: ir.Graph, scheme: QuantScheme, int8: frozenset[str], quantised: dict[str, ir.Value]
) -> tuple[frozenset[str], dict[str, float]]:
    """Relu and Clip from zero behind an int8 node that feeds nothing else; its raw output is then not quantised."""
    folded: set[str] = set()
    caps: dict[str, float] = {}
    makers = scheme.compute_operators | scheme.follow_operators
    for node in main_nodes(graph) if scheme.fold_relu else ():
        source = node.inputs[0] if node.op_type in _CLAMPS and node.name in int8 else None
        maker = source.producer() if source is not None else None
        bounds = _bounds(node) if source is not None else (0.0, 0.0)
        if source is None or maker is None or maker.name not in int8 or maker.op_type not in makers:
            continue
        if bounds[0] != 0.0 or not bounds[1] > 0.0 or len(source.uses()) != 1 or source.is_graph_output():
            continue
        folded.add(str(node.name))
        caps[str(node.outputs[0].name)] = bounds[1]
        del quantised[str(source.name)]
    return frozenset(folded), caps


def _carried_caps(graph: ir.Graph, caps: Mapping[str, float], moved: frozenset[str]) -> dict[str, float]:
    """Activation -> cap of the folded clamp whose values it carries, through nodes that move or join them."""
    carried = dict(caps)
    for node in main_nodes(graph):
        sources = node.inputs[:1] if node.name in moved else node.inputs if node.op_type == "Concat" else ()
        found = {carried.get(str(value.name)) for value in sources if value is not None}
        if len(found) == 1 and (cap := found.pop()) is not None:
            carried.setdefault(str(node.outputs[0].name), cap)
    return carried


def _groups(
    graph: ir.Graph,
    moved: frozenset[str],
    int8: frozenset[str],
    quantised: Mapping[str, ir.Value],
    carried: Mapping[str, float],
) -> dict[str, str]:
    """Scale groups: moving nodes keep the scale; the inputs of a Concat share one when that breaks no folded clamp."""
    parent = {name: name for name in quantised}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in main_nodes(graph):
        names = [str(value.name) for value in node.inputs if value is not None and value.name in quantised]
        output = str(node.outputs[0].name)
        if node.name in moved:
            parent[root(output)] = root(names[0])
        elif node.op_type == "Concat" and node.name in int8 and len({carried.get(n) for n in [*names, output]}) == 1:
            for name in names if output not in quantised else [*names, output]:
                parent[root(name)] = root(names[0])
    return {name: root(name) for name in quantised}


def _add(quantised: dict[str, ir.Value], value: ir.Value | None) -> None:
    if value is not None:
        quantised[str(value.name)] = value


def _constant_operands(node: ir.Node) -> list[str]:
    return [str(value.name) for value in node.inputs if value is not None and constant(value) is not None]


def _bounds(node: ir.Node) -> tuple[float, float]:
    """The range a Relu or Clip lets through; NaN bounds for limits that are computed at run time."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    ends = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            array = constant(value)
            ends[index] = math.nan if array is None else float(array.astype(np.float64).reshape(-1)[0])
    return ends[0], ends[1]


def _pads_zero(node: ir.Node) -> bool:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    value = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004 - Pad(data, pads, value, axes)
    array = constant(value)
    return mode != "constant" or value is None or (array is not None and not array.any())


def _is_float32(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in {None, ir.DataType.FLOAT}


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default
