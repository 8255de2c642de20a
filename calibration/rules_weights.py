"""Which nodes with a constant weight have an int8 form, and along which axis the weight's scales run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.prepare import constant

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MATRIX: Final = 2
_BIAS: Final = 2
_LEFT: Final = "its constant is the left operand: only one on the right is quantised as a weight"


def weight_axis(node: ir.Node) -> int:
    """The output channel axis of a compute node's weight (input 1)."""
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if int_attribute(node, "transB", 0) else 1
    rank = len(node.inputs[1].shape or ()) if node.inputs[1] is not None else 0
    return 0 if node.op_type == "Conv" else max(rank - 1, 0)


def bias_row(bias: ir.Value | None, channels: int) -> NDArray[np.generic] | None:
    """A constant bias as one value for each output channel, ``(channels,)``; None where it cannot be written so."""
    array = constant(bias)
    if array is None or array.shape[:-1] != (1,) * (array.ndim - 1) or array.size not in {1, channels}:
        return None
    return np.broadcast_to(array.reshape(-1), (channels,))


def weight_of(node: ir.Node, *, integer_bias: bool) -> tuple[str, int] | str:
    """Weight and axis of a compute node, or why it stays float."""
    source, weight = node.inputs[0], node.inputs[1]
    array = constant(weight)
    if weight is None or array is None:
        return _LEFT if constant(source) is not None else "its weight is not a constant"
    gemm = node.op_type == "Gemm"
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    axis = weight_axis(node)
    scaled = gemm and (_float_attribute(node, "alpha", 1.0), _float_attribute(node, "beta", 1.0)) != (1.0, 1.0)
    channels = array.shape[axis] if array.size else 0
    grouped = node.op_type == "ConvTranspose" and int_attribute(node, "group", 1) > 1
    if grouped:
        channels *= int_attribute(node, "group", 1)
    hindrances = {
        "only float32 is quantised": array.dtype != np.float32 or not is_float32(source),
        "its weight is empty": array.size == 0,
        "its input is a constant": constant(source) is not None,
        "Gemm with alpha or beta other than 1 has no int8 form": scaled,
        "Gemm with transA has no int8 form": gemm and int_attribute(node, "transA", 0) == 1,
        "its bias is not one constant for each output channel": integer_bias
        and bias is not None
        and array.size > 0
        and bias_row(bias, channels) is None,
        "a ConvTranspose of groups shares the scales that its integer bias is counted in": integer_bias
        and bias is not None
        and grouped,
        "MatMul with a batched weight has no per-channel int8 form": node.op_type == "MatMul" and array.ndim != _MATRIX,
    }
    return next((why for why, holds in hindrances.items() if holds), (str(weight.name), axis))


def is_product(node: ir.Node) -> bool:
    """Whether the node multiplies two activations of float32."""
    return node.op_type == "MatMul" and all(is_float32(value) and constant(value) is None for value in node.inputs)


def is_float32(value: ir.Value | None) -> bool:
    """Whether a tensor is of float32, or of a type that shape inference could not find."""
    return value is not None and value.dtype in {None, ir.DataType.FLOAT}


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or what the operator takes where it is left out."""
    return node.attributes[name].as_int() if name in node.attributes else default


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """A text attribute, or what the operator takes where it is left out."""
    return node.attributes[name].as_string() if name in node.attributes else default


def _float_attribute(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default
