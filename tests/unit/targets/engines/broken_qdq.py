"""Graphs with Q/DQ in which one thing is wrong: what linters and engines must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Arrays = dict[str, Any]


def good() -> onnx.ModelProto:
    """One symmetric int8 convolution with float bias, as TensorRT wants it."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {
        "x_scale": np.float32(0.02),
        "x_zero": np.int8(0),
        "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(4, 0.01, np.float32),
        "w_zero": np.zeros(4, np.int8),
        "bias": np.zeros(4, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], "dq_w", axis=0),
        helper.make_node("Conv", ["xd", "wd", "bias"], ["y"], "conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _put(model: onnx.ModelProto, **arrays: object) -> onnx.ModelProto:
    for name, array in arrays.items():
        old = [tensor for tensor in model.graph.initializer if tensor.name == name]
        for tensor in old:
            model.graph.initializer.remove(tensor)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def _weights(model: onnx.ModelProto) -> Any:  # noqa: ANN401
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")


def asymmetric_signed() -> onnx.ModelProto:
    return _put(good(), x_zero=np.int8(3))


def asymmetric_unsigned() -> onnx.ModelProto:
    return _put(good(), x_zero=np.uint8(128))


def unsigned_weight() -> onnx.ModelProto:
    model = good()
    return _put(model, w=(_weights(model).astype(np.int16) + 128).astype(np.uint8), w_zero=np.full(4, 128, np.uint8))


def unsigned_weight_zero() -> onnx.ModelProto:
    model = good()
    return _put(model, w=np.abs(_weights(model)).astype(np.uint8), w_zero=np.zeros(4, np.uint8))


def integer_bias() -> onnx.ModelProto:
    model = _put(good(), bias=np.zeros(4, np.int32), b_scale=np.full(4, 2e-4, np.float32), b_zero=np.zeros(4, np.int32))
    model.graph.node[3].input[2] = "bd"
    node = helper.make_node("DequantizeLinear", ["bias", "b_scale", "b_zero"], ["bd"], "dq_b", axis=0)
    model.graph.node.insert(0, node)
    return model


def zero_activation_scale() -> onnx.ModelProto:
    return _put(good(), x_scale=np.float32(0))


def zero_weight_scale() -> onnx.ModelProto:
    return _put(good(), w_scale=np.array([0.01, 0, 0.01, 0.01], np.float32))


def scalar_zero_point() -> onnx.ModelProto:
    return _put(good(), w_zero=np.int8(0))


def laid_out(model: onnx.ModelProto, quantiser: str, index: int, channels: int, number: object) -> onnx.ModelProto:
    """Its scale (index 1) or zero point (2) is one number that Expand lays out along channels; the sizes are a node."""
    sizes = helper.make_node("Constant", [], [f"sizes_{index}"], value=numpy_helper.from_array(np.array([channels])))
    expand = helper.make_node("Expand", [f"one_{index}", f"sizes_{index}"], [f"laid_{index}"], f"lay_{index}")
    next(node for node in model.graph.node if node.name == quantiser).input[index] = f"laid_{index}"
    model.graph.node.insert(0, expand)
    model.graph.node.insert(0, sizes)
    return _put(model, **{f"one_{index}": number})


def laid_out_zero_point() -> onnx.ModelProto:
    return laid_out(good(), "dq_w", 2, 4, np.int8(0))


def wrong_axis() -> onnx.ModelProto:
    model = good()
    model.graph.node[2].attribute[0].i = 1
    return model


def float_scales_in_half() -> onnx.ModelProto:
    """float16 bias, float32 scales."""
    return _put(good(), bias=np.zeros(4, np.float16))


def float_scales_in_half_graph() -> onnx.ModelProto:
    """float16 from the input on, but for the scale of the activation."""
    model = _put(good(), bias=np.zeros(4, np.float16), w_scale=np.full(4, 0.01, np.float16))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def operator_format() -> onnx.ModelProto:
    model = _put(good(), y_scale=np.float32(0.05), y_zero=np.int8(0))
    del model.graph.node[1:]
    inputs = ["xq", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    model.graph.node.append(helper.make_node("QLinearConv", inputs, ["yq"], "conv"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["yq", "y_scale", "y_zero"], ["y"], "dq"))
    return model


def dynamic() -> onnx.ModelProto:
    model = good()
    del model.graph.node[:2]
    model.graph.node.insert(0, helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "s", "z"], "dynamic"))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"))
    return model


REFUSED_BY_TENSORRT: dict[Callable[[], onnx.ModelProto], str] = {
    asymmetric_signed: "'q' .*zero point is not 0",
    asymmetric_unsigned: "'q' .*zero point is not 0",
    unsigned_weight: "'dq_w' .*zero point is not 0",
    unsigned_weight_zero: "'dq_w' .*no uint8",
    integer_bias: "'conv' .*bias is stored as integers",
    zero_activation_scale: "'q' .*scales must be positive",
    zero_weight_scale: "'dq_w' .*scales must be positive",
    laid_out_zero_point: "'dq_w' .*zero point is laid out by a node",
    scalar_zero_point: "'dq_w' .*zero point has 1 values and its scale 4",
    wrong_axis: "'dq_w' .*4 scales along axis 1 of a tensor of shape",
    float_scales_in_half: "'conv' .*float16 and float32",
    float_scales_in_half_graph: "'q' .*float16 and float32",
    operator_format: "'conv' .*no QLinearConv",
    dynamic: "'dynamic' .*no DynamicQuantizeLinear",
}
"""Maker -> what the linter must say."""
