"""Gives sums and means over quantised series (N, C, L) a fourth dimension, where an engine gets those of three wrong.

OpenVINO 2026.4.1 carries a DequantizeLinear over a sum and adds up the integers. From some thousand values on, its
kernel for three dimensions gives numbers without meaning (NaN among them; seen with AVX-512); those for two and for
four are right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from targets.onnxfile import ranks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

POOL: Final = "GlobalAveragePool"
SUMS: Final = frozenset({"ReduceMean", "ReduceSum", POOL})
LIFTED: Final = "__series"
"""How the names of what is computed in four dimensions end."""

_CARRIES: Final = frozenset(
    {"Relu", "Clip", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Slice", "Split", "Pad"}
    | {"MaxPool", "Mul", "Resize", "Expand", "Tile", "Gather", "DepthToSpace", "SpaceToDepth", "Identity"}
)
"""What a dequantisation may be carried over, too."""

_SERIES: Final = 3
_AXES_AS_INPUT: Final = 18
"""From this opset on ReduceMean takes its axes as an input; ReduceSum has done so since 13."""


def lift_series(model: onnx.ModelProto) -> list[str]:
    """Gives such nodes a last dimension of one that they sum over, too, in place; values do not change.

    One that is not summed over would be taken out again by the engine. Where dimensions are kept, a Squeeze behind
    takes the node's name and that of its result.

    Args:
        model: A Q/DQ model of style ``operators``, opset 13 or newer.

    Returns:
        The nodes that were lifted.
    """
    graph = model.graph
    ranks = ranks_of(model)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    integers: set[str] = set()  # read of integers, perhaps through nodes that carry it on
    lifted = []
    for node in [*graph.node]:
        if node.op_type == "DequantizeLinear" or (node.op_type in _CARRIES and not integers.isdisjoint(node.input)):
            integers.update(node.output)
        if node.op_type not in SUMS or ranks.get(node.input[0]) != _SERIES or node.input[0] not in integers:
            continue
        axes = _axes(node, constants)
        if axes is not None:
            _lift(graph, node, axes, opset)
            lifted.append(node.name.removesuffix(LIFTED))
    return lifted


def _axes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> list[int] | None:
    """What is summed over, counted from the first; None where that is not known, or nothing."""
    if node.op_type == POOL:
        return [2]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    listed = [*attributes.get("axes", [])]
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            return None
        listed = numpy_helper.to_array(constants[node.input[1]]).tolist()
    if not listed and attributes.get("noop_with_empty_axes", 0):
        return None
    return sorted({int(axis) % _SERIES for axis in listed}) or [*range(_SERIES)]


def _lift(graph: onnx.GraphProto, node: onnx.NodeProto, axes: list[int], opset: int) -> None:
    name, source, result = node.name, node.input[0], node.output[0]
    keeps = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "keepdims"), 1)
    label = f"{name}{LIFTED}"
    added = {f"{label}__axis": [_SERIES]}
    if node.op_type != POOL:
        _state_axes(node, [*axes, _SERIES], added, opset)
    graph.initializer.extend(numpy_helper.from_array(np.array(value, np.int64), key) for key, value in added.items())
    place = [*graph.node].index(node)
    node.input[0] = f"{label}__read"
    if node.op_type == POOL or keeps:
        node.name, node.output[0] = label, f"{result}{LIFTED}"
        graph.node.insert(place + 1, helper.make_node("Squeeze", [node.output[0], f"{label}__axis"], [result], name))
    graph.node.insert(place, helper.make_node("Unsqueeze", [source, f"{label}__axis"], [node.input[0]], f"{label}__up"))


def _state_axes(node: onnx.NodeProto, axes: list[int], added: dict[str, list[int]], opset: int) -> None:
    """Writes what is summed over, counted from the first."""
    if node.op_type == "ReduceMean" and opset < _AXES_AS_INPUT:
        for attribute in [attribute for attribute in node.attribute if attribute.name == "axes"]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute("axes", axes))
        return
    key = f"{node.name}{LIFTED}__sums"
    added[key] = axes
    del node.input[1:]
    node.input.append(key)
