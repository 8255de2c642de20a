"""The ONNX graphs of the probes: chains of convolutions, matrix products and empty nodes, with drawn weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_OPSET: Final = 17
_IR_VERSION: Final = 9
_SCALE: Final = 0.02


def identities(count: int) -> onnx.ModelProto:
    """A chain of ``count`` Identity nodes on one number: nothing but the cost of starting a node."""
    names = ["x", *(f"t{index}" for index in range(1, count)), "y"]
    nodes = [helper.make_node("Identity", [names[i]], [names[i + 1]], name=f"n{i}") for i in range(count)]
    return _model(nodes, ("x", TensorProto.FLOAT, [1]), ("y", TensorProto.FLOAT, [1]), [])


def product(size: int, pair: str) -> onnx.ModelProto:
    """A square matrix product with a constant right side: ``f32``, or ``MatMulInteger`` on integer types."""
    generator = np.random.default_rng(0)
    shape = [size, size]
    if pair == "f32":
        weight = numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), "w")
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        return _model([node], ("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, shape), [weight])
    left = TensorProto.UINT8 if pair.startswith("u8") else TensorProto.INT8
    integers = generator.integers(-100, 100, shape)
    right = (integers + 100).astype(np.uint8) if pair.endswith("u8") else integers.astype(np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    weight = numpy_helper.from_array(right, "w")
    return _model([node], ("x", left, shape), ("y", TensorProto.INT32, shape), [weight])


def convolutions(channels: int, side: int, kernel: int, weights: str, *, groups: int, count: int) -> onnx.ModelProto:
    """``count`` convolutions in a row that keep the shape ``(1, channels, side, side)``, each with a Relu.

    They share one weight, so that the file stays small; the runtime packs it for each of them.

    Args:
        channels: In and out.
        side: Height and width.
        kernel: Height and width of the kernel.
        weights: ``f32``; ``u8s8`` or ``s8s8`` (activations, weights) with explicit Q/DQ, as quantised models have.
        groups: Of each convolution.
        count: How many.
    """
    generator = np.random.default_rng(0)
    shape = [1, channels, side, side]
    fan_in = channels // groups * kernel**2
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    quantised = weights != "f32"
    drawn = generator.standard_normal((channels, channels // groups, kernel, kernel)) / np.sqrt(fan_in)
    if quantised:
        zero = np.array(0, np.uint8 if weights == "u8s8" else np.int8)
        stored += [
            numpy_helper.from_array(np.array(_SCALE, np.float32), "scale"),
            numpy_helper.from_array(zero, "zero"),
        ]
        stored += _quantised_weight(drawn)
        nodes += _round_trip("x", "a0")
    else:
        stored.append(numpy_helper.from_array(drawn.astype(np.float32), "w"))
    source = "a0" if quantised else "x"
    for index in range(count):
        weight = f"w{index}" if quantised else "w"
        if quantised:
            nodes.append(helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], [weight], axis=0))
        last = index == count - 1
        target = "y" if last else f"a{index + 1}"
        made = f"r{index}" if quantised else target
        pad = [kernel // 2] * 4
        nodes += [
            helper.make_node(
                "Conv", [source, weight], [f"c{index}"], kernel_shape=[kernel] * 2, pads=pad, group=groups
            ),
            helper.make_node("Relu", [f"c{index}"], [made]),
        ]
        if quantised:
            nodes += _round_trip(made, target)
        source = target
    return _model(nodes, ("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, shape), stored)


def _round_trip(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_q"]),
        helper.make_node("DequantizeLinear", [f"{target}_q", "scale", "zero"], [target]),
    ]


def _quantised_weight(drawn: npt.NDArray[np.float64]) -> list[onnx.TensorProto]:
    """Integers, scales and zero points, one of each an output channel."""
    step = float(np.abs(drawn).max()) / 127
    channels = len(drawn)
    return [
        numpy_helper.from_array(np.rint(drawn / step).astype(np.int8), "wq"),
        numpy_helper.from_array(np.full(channels, step, np.float32), "ws"),
        numpy_helper.from_array(np.zeros(channels, np.int8), "wz"),
    ]


def _model(
    nodes: Sequence[onnx.NodeProto],
    source: tuple[str, int, Sequence[int]],
    target: tuple[str, int, Sequence[int]],
    stored: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "probe",
        [helper.make_tensor_value_info(*source)],
        [helper.make_tensor_value_info(*target)],
        list(stored),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="edgepress")
    model.ir_version = _IR_VERSION
    return model
