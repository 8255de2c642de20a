"""Adds reductions to a graph, so that a run gives back one figure a channel and never holds the tensor itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.initializers import set_initializer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_AXES_AS_INPUT: Final = 18
"""From this opset on ReduceMean and ReduceMax take their axes as an input; ReduceSum has done so since 13."""


def add_channel_means(graph: ir.Graph, values: Mapping[str, ir.Value]) -> None:
    """Adds an output ``name``, ``(batch, channels)``, for each value: its mean over all axes but the first two."""
    shape = set_initializer(graph, "__rows", np.array([0, 0, -1], np.int64))
    for name, value in values.items():
        flat = _append(graph, ir.node("Reshape", [value, shape], name=f"{name}__flat"))
        _output(graph, _append(graph, _reduction(graph, "ReduceMean", flat, (2,), name)), name)


def add_channel_maxima(graph: ir.Graph, values: Mapping[str, tuple[ir.Value, int, int]]) -> None:
    """Adds an output ``name`` of shape ``(channels,)``: the largest magnitude along all axes but one.

    Args:
        graph: Gets the outputs.
        values: Name -> (value, its rank, the axis that stays).
    """
    for name, (value, rank, axis) in values.items():
        size = _append(graph, ir.node("Abs", [value], name=f"{name}__abs"))
        others = tuple(i for i in range(rank) if i != axis)
        _output(graph, _append(graph, _reduction(graph, "ReduceMax", size, others, name)), name)


def add_squared_error(graph: ir.Graph, value: ir.Value, reference: ir.Value, name: str) -> None:
    """Adds an output ``name``, a scalar: the sum of squared differences of two values."""
    difference = _append(graph, ir.node("Sub", [value, reference], name=f"{name}__difference"))
    square = _append(graph, ir.node("Mul", [difference, difference], name=f"{name}__square"))
    _output(graph, _append(graph, ir.node("ReduceSum", [square], {"keepdims": 0}, name=f"{name}__sum")), name)


def _reduction(graph: ir.Graph, op: str, value: ir.Value, axes: Sequence[int], name: str) -> ir.Node:
    label = f"{name}__{op}"
    if graph.opset_imports[""] < _AXES_AS_INPUT:
        return ir.node(op, [value], {"axes": [*axes], "keepdims": 0}, name=label)
    listed = set_initializer(graph, f"{label}__axes", np.array(axes, np.int64))
    return ir.node(op, [value, listed], {"keepdims": 0}, name=label)


def _append(graph: ir.Graph, node: ir.Node) -> ir.Value:
    graph.append(node)
    node.outputs[0].name = f"{node.name}__value"
    return node.outputs[0]


def _output(graph: ir.Graph, value: ir.Value, name: str) -> None:
    value.name = name
    value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(value)
