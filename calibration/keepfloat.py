"""Layers left in float amid integers: written so that ONNX Runtime leaves them in float too.

Where a convolution or Gemm with float weights stands between a DequantizeLinear with a single scale and a
QuantizeLinear, ONNX Runtime rounds its weights to 8 bits with one scale for the whole tensor (WeightBiasQuantization,
seen in 1.32): what was spared to save accuracy becomes the coarsest layer of all. It lets be what is read with a scale
for each channel, so such a layer gets a reading of its own, whose scales are all equal: the same numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibration.prepare import constant, set_initializer
from calibration.rules_weights import int_attribute


def channels_read(node: ir.Node) -> int:
    """Channels of the activation that a layer with constant weights reads; 0 for any other node."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or node.op_type not in {"Conv", "ConvTranspose", "Gemm"}:
        return 0
    if node.op_type == "Conv":
        return int(weight.shape[1]) * int_attribute(node, "group", 1)
    along = 1 if node.op_type == "Gemm" and int_attribute(node, "transB", 0) else 0
    return int(weight.shape[along])


def read_by_channel(
    graph: ir.Graph, reader: ir.Node, integers: ir.Value, scale_and_zero: tuple[ir.Value, ...]
) -> ir.Value:
    """A DequantizeLinear for one layer, with scale and zero point laid out along the channels that it reads."""
    name = str(reader.name)
    shape = set_initializer(graph, f"{name}__channels", np.array([channels_read(reader)], np.int64))
    laid_out = []
    for part, value in zip(("scale", "zero_point"), scale_and_zero, strict=True):
        expand = ir.node("Expand", [value, shape], name=f"{name}__{part}__Expand")
        laid_out.append(_added(graph, expand, f"{name}__read_{part}", value.dtype))
    axis = 0 if reader.op_type == "Gemm" and int_attribute(reader, "transA", 0) else 1
    node = ir.node("DequantizeLinear", [integers, *laid_out], {"axis": axis}, name=f"{name}__read")
    return _added(graph, node, f"{name}__read_dequantized", ir.DataType.FLOAT)


def _added(graph: ir.Graph, node: ir.Node, name: str, dtype: ir.DataType | None) -> ir.Value:
    graph.append(node)
    node.outputs[0].name = name
    node.outputs[0].type = None if dtype is None else ir.TensorType(dtype)
    return node.outputs[0]
