"""Gives quantised layers without a bias one of zeros, in the form that their file uses, so that it can be corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from calibration.quantized import QuantizedGraph, read_quantized

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

_INPUTS = 2
_MARK = "__bias"


def add_zero_biases(model: onnx.ModelProto) -> list[str]:
    """Adds zeros as bias to every quantised Conv and Gemm without one.

    They are int32 behind DequantizeLinear, in steps of input scale x weight scale, where the layer's output is
    quantised at once (so that it stays one integer operator), and float32 elsewhere. A file keeps to the form of the
    biases it has; without any, int32 goes with unsigned activations.

    Returns:
        The nodes that got one.
    """
    graph = read_quantized(model)
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    added: list[str] = []
    integers = _integers_fit(graph)
    for node in [*model.graph.node]:
        if node.name not in graph.weights or node.op_type not in {"Conv", "Gemm"}:
            continue
        if len(node.input) == _INPUTS or not node.input[_INPUTS]:
            _add(model, graph, node, integer=integers and readers.get(node.output[0]) == {"QuantizeLinear"})
            added.append(node.name)
    return added


def remove_biases(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Takes back what `add_zero_biases` gave these nodes."""
    made = {f"{name}{_MARK}" for name in nodes}
    for node in model.graph.node:
        if node.name in nodes:
            del node.input[_INPUTS:]
    for kept in (model.graph.node, model.graph.initializer):
        for item in [*kept]:
            if any(item.name.startswith(f"{name}__") or item.name == name for name in made):
                kept.remove(item)


def _integers_fit(graph: QuantizedGraph) -> bool:
    if graph.biases:
        return any(bias.scale is not None for bias in graph.biases.values())
    zeros = [activation.zero for activation in graph.activations.values() if activation.zero is not None]
    return any(graph.array(zero).dtype.kind == "u" for zero in zeros)


def _add(model: onnx.ModelProto, graph: QuantizedGraph, node: onnx.NodeProto, *, integer: bool) -> None:
    weight = graph.weights[node.name]
    axis = 0 if node.op_type == "Conv" else weight.axis
    dims = graph.array(weight.integers).shape
    gemm_axis = next((0 for a in node.attribute if a.name == "transB" and a.i), 1)
    channels = dims[axis if axis is not None else gemm_axis]
    name = f"{node.name}{_MARK}"
    reading = name
    if integer:
        source = next(maker for maker in model.graph.node if node.input[0] in maker.output)
        step = graph.array(source.input[1]).astype(np.float32) * graph.array(weight.scale).astype(np.float32)
        steps = np.broadcast_to(step, (channels,)).astype(np.float32)
        for suffix, array in (
            ("quantized", np.zeros(channels, np.int32)),
            ("scale", steps),
            ("zero_point", np.zeros(channels, np.int32)),
        ):
            model.graph.initializer.append(numpy_helper.from_array(array, f"{name}__{suffix}"))
        reading = f"{name}__dequantized"
        inputs = [f"{name}__quantized", f"{name}__scale", f"{name}__zero_point"]
        reader = helper.make_node("DequantizeLinear", inputs, [reading], f"{name}__DequantizeLinear", axis=0)
        model.graph.node.insert([*model.graph.node].index(node), reader)
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(channels, np.float32), name))
    del node.input[_INPUTS:]
    node.input.append(reading)
