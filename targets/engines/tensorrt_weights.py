"""Weights as TensorRT 8.6 reads them: float, behind QuantizeLinear and DequantizeLinear; the numbers stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from targets.engines.lint_graph import DEQUANTIZE, QUANTIZE, GraphView
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]


def in_float(model: onnx.ModelProto, path: Path) -> None:
    """Puts a QuantizeLinear before each int8 constant that is dequantised, in place; it gives the same integers.

    Args:
        model: A graph that TensorRT's linter takes: symmetric, its scales constants.
        path: The file that it came from, where its weights may lie.

    Raises:
        InputError: A weight would not round back to its integers: its float16 values overflow.
    """
    from onnx import helper, numpy_helper

    view, graph, nodes = GraphView(model, path), model.graph, []
    for node in graph.node:
        integers = view.constant(node.input[0]) if node.op_type == DEQUANTIZE else None
        if integers is not None and integers.dtype == np.int8:
            name = f"{node.name or node.output[0]}__weight"
            scale = view.constant(node.input[1])
            assert scale is not None, node.name  # the linter has looked
            graph.initializer.append(numpy_helper.from_array(_real(node, integers, scale), name))
            inputs = [name, *node.input[1:]]
            nodes.append(helper.make_node(QUANTIZE, inputs, [f"{name}__quantized"], f"{name}__{QUANTIZE}"))
            nodes[-1].attribute.extend(node.attribute)
            node.input[0] = f"{name}__quantized"
        nodes.append(node)
    _put(graph, nodes)


def _real(node: onnx.NodeProto, integers: Array, scale: Array) -> Array:
    axis = next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * integers.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    steps = scale.reshape(shape if scale.ndim else ())
    with np.errstate(over="ignore"):
        real: Array = integers.astype(scale.dtype) * steps
    if not np.array_equal(np.rint(real / steps), integers):
        raise InputError(
            f"the weight that {node.name or node.output[0]!r} reads cannot be stored in float",
            f"in {scale.dtype} its values do not round back to its integers: its largest scale is {scale.max():g}",
            'write float_type = "fp32" in the profile\'s quantization, or weights = "int8" in its engine section',
        )
    return real


def _put(graph: onnx.GraphProto, nodes: list[Any]) -> None:
    """The nodes in this order, and no constant that none of them reads."""
    kept = [type(node).FromString(node.SerializeToString(deterministic=True)) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    unread = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unread:
        graph.initializer.remove(tensor)
