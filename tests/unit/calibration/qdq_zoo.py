"""Small float nets of many kinds for Q/DQ tests, and their ranges by plain min-max, without the collector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from calibration.modelfile import model_sha256
from calibration.prepare import prepare, serialize
from calibration.session import Session
from calibration.table import CalibrationTable
from targets.onnxfile import open_onnx

Array = np.ndarray[Any, np.dtype[Any]]
Feed = dict[str, Array]


class Net:
    """Collects nodes and constants of one graph."""

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.opset = opset

    def const(self, array: object) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def weight(self, *shape: int, fan_in: int | None = None) -> str:
        scale = 1.0 / np.sqrt(fan_in or int(np.prod(shape[1:])))
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: object) -> Any:  # noqa: ANN401
        index = len(self.nodes)
        names = [f"t{index}_{i}" if outputs > 1 else f"t{index}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, [*inputs], names, name or f"{kind}{index}", **attributes))
        return names if outputs > 1 else names[0]

    def conv(
        self, x: str, out: int, inner: int, size: int = 3, *, rank: int = 2, group: int = 1, **more: object
    ) -> str:
        weight = self.weight(out, inner // group, *[size] * rank)
        bias = self.const((self.rng.standard_normal(out) * 0.1).astype(np.float32))
        result: str = self.op("Conv", x, weight, bias, pads=[size // 2] * (2 * rank), group=group, **more)
        return result

    def model(
        self, output: str, inputs: Mapping[str, tuple[int | str, ...]], types: Mapping[str, int]
    ) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["y"], "out"))
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        del model.graph.output[:]
        model.graph.output.extend(inferred.graph.output)
        del model.graph.node[-1]  # the last node writes the output itself
        for node in model.graph.node:
            node.output[:] = ["y" if name == output else name for name in node.output]
            node.input[:] = ["y" if name == output else name for name in node.input]
        onnx.checker.check_model(model)
        return model


def images(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def residual() -> tuple[onnx.ModelProto, Feed]:
    """Two blocks, one with a convolution in the shortcut."""
    net = Net()
    stem = net.op("Relu", net.conv("x", 8, 3))
    inner = net.conv(net.op("Relu", net.conv(stem, 8, 8)), 8, 8)
    first = net.op("Relu", net.op("Add", inner, stem))
    short = net.conv(first, 16, 8, 1, strides=[2, 2])
    inner = net.conv(net.op("Relu", net.conv(first, 16, 8, strides=[2, 2])), 16, 16)
    pooled = net.op("GlobalAveragePool", net.op("Relu", net.op("Add", inner, short)))
    head = net.op("Gemm", net.op("Flatten", pooled), net.weight(10, 16), net.const(np.zeros(10, np.float32)), transB=1)
    return net.model(head, {"x": (2, 3, 8, 8)}, {}), {"x": images(2, 3, 8, 8)}


def depthwise() -> tuple[onnx.ModelProto, Feed]:
    """Inverted residual with Relu6, squeeze and excitation, HardSwish."""
    net = Net(1)
    six = (net.const(np.float32(0)), net.const(np.float32(6)))
    stem = net.op("HardSwish", net.conv("x", 8, 3))
    wide = net.op("Clip", net.conv(stem, 16, 8, 1), *six)
    deep = net.op("Clip", net.conv(wide, 16, 16, group=16), *six)
    squeezed = net.op("Relu", net.conv(net.op("GlobalAveragePool", deep), 4, 16, 1))
    gated = net.op("Mul", deep, net.op("HardSigmoid", net.conv(squeezed, 16, 4, 1)))
    joined = net.op("Add", net.conv(gated, 8, 16, 1), stem)
    axes = net.const(np.array([2, 3]))
    mean = (
        net.op("ReduceMean", joined, axes=[2, 3], keepdims=0) if net.opset < 18 else net.op("ReduceMean", joined, axes)
    )
    net.constants.pop(axes)
    head = net.op("Gemm", mean, net.weight(8, 10, fan_in=8), net.const(np.zeros(10, np.float32)))
    return net.model(head, {"x": (2, 3, 8, 8)}, {}), {"x": images(2, 3, 8, 8)}


def concat() -> tuple[onnx.ModelProto, Feed]:
    """Inception block: branches of convolutions and pools meet in a Concat that another block reads."""
    net = Net(2)
    one = net.op("Relu", net.conv("x", 4, 3, 1))
    two = net.op("LeakyRelu", net.conv(one, 6, 4), alpha=0.1)
    three = net.op("MaxPool", one, kernel_shape=[3, 3], pads=[1] * 4)
    four = net.op("AveragePool", two, kernel_shape=[3, 3], pads=[1] * 4)
    joined = net.op("Concat", one, two, three, four, axis=1)
    again = net.op("Concat", joined, net.conv(joined, 4, 20), axis=1)
    return net.model(net.conv(again, 5, 24, 1), {"x": (2, 3, 8, 8)}, {}), {"x": images(2, 3, 8, 8)}


def decoder() -> tuple[onnx.ModelProto, Feed]:
    """A small U: transposed convolutions (one grouped), nearest and linear Resize, a skip."""
    net = Net(3)
    top = net.op("Relu", net.conv("x", 8, 3))
    low = net.op("Relu", net.conv(top, 8, 8, strides=[2, 2]))
    up = net.op("ConvTranspose", low, net.weight(8, 6, 2, 2), net.weight(6, fan_in=9), strides=[2, 2])
    scales = net.const(np.array([1, 1, 2, 2], np.float32))
    near = net.op("Resize", low, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    soft = net.op("Resize", net.conv(low, 4, 8, 1), "", scales, mode="linear")
    merged = net.conv(net.op("Concat", top, up, near, soft, axis=1), 4, 26)
    grouped = net.op("ConvTranspose", merged, net.weight(4, 2, 2, 2), strides=[2, 2], group=2)
    return net.model(grouped, {"x": (1, 3, 8, 8)}, {}), {"x": images(1, 3, 8, 8)}


def gates() -> tuple[onnx.ModelProto, Feed]:
    """SiLU and a channel shuffle: Split, Reshape, Transpose, Concat."""
    net = Net(4)
    stem = net.conv("x", 8, 3)
    silu = net.op("Mul", stem, net.op("Sigmoid", stem))
    left, right = net.op("Split", silu, net.const(np.array([4, 4])), outputs=2, axis=1)
    right = net.op("Relu", net.conv(right, 4, 4))
    joined = net.op("Concat", left, right, axis=1)
    cut = net.op("Reshape", joined, net.const(np.array([0, 2, 4, 8, 8])))
    shuffled = net.op("Reshape", net.op("Transpose", cut, perm=[0, 2, 1, 3, 4]), net.const(np.array([0, 8, 8, 8])))
    return net.model(net.conv(shuffled, 4, 8), {"x": (2, 3, 8, 8)}, {}), {"x": images(2, 3, 8, 8)}


def transformer() -> tuple[onnx.ModelProto, Feed]:
    """One block: attention, LayerNorm and Gelu in single operators as exporters write them; residual sums."""
    net = Net(5)
    width, heads, length = 16, 2, 6

    def linear(x: str, inner: int, out: int) -> str:
        product = net.op("MatMul", x, net.weight(inner, out, fan_in=inner))
        return str(net.op("Add", product, net.const((net.rng.standard_normal(out) * 0.1).astype(np.float32))))

    def norm(x: str) -> str:
        centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
        spread = net.op("ReduceMean", net.op("Mul", centred, centred), axes=[-1])
        root = net.op("Sqrt", net.op("Add", spread, net.const(np.float32(1e-5))))
        scaled = net.op("Mul", net.op("Div", centred, root), net.const(np.ones(width, np.float32)))
        return str(net.op("Add", scaled, net.const(np.zeros(width, np.float32))))

    def split(x: str, perm: list[int]) -> str:
        cut = net.op("Reshape", x, net.const(np.array([0, length, heads, width // heads])))
        return str(net.op("Transpose", cut, perm=perm))

    start = norm("x")
    scores = net.op(
        "MatMul", split(linear(start, width, width), [0, 2, 1, 3]), split(linear(start, width, width), [0, 2, 3, 1])
    )
    chances = net.op("Softmax", net.op("Mul", scores, net.const(np.float32(0.35))), axis=-1)
    mixed = net.op("MatMul", chances, split(linear(start, width, width), [0, 2, 1, 3]))
    merged = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.const(np.array([0, length, width])))
    stream = net.op("Add", linear(merged, width, width), "x")
    inner = linear(norm(stream), width, 32)
    erf = net.op("Erf", net.op("Div", inner, net.const(np.float32(np.sqrt(2)))))
    half = net.op("Mul", inner, net.const(np.float32(0.5)))
    gelu = net.op("Mul", half, net.op("Add", erf, net.const(np.float32(1))))
    stream = net.op("Add", stream, linear(gelu, 32, width))
    logits = linear(norm(stream), width, 5)
    return net.model(logits, {"x": (2, length, width)}, {}), {"x": images(2, length, width)}


def series() -> tuple[onnx.ModelProto, Feed]:
    """Sound: 1-d convolutions, one depthwise, and a mean over time."""
    net = Net(6)
    deep = net.conv(net.op("Relu", net.conv("x", 8, 2, 5, rank=1)), 8, 8, rank=1, group=8)
    mean = net.op("ReduceMean", net.op("Relu", deep), axes=[-1], keepdims=0)
    return net.model(net.op("Gemm", mean, net.weight(8, 4, fan_in=8)), {"x": (2, 2, 32)}, {}), {"x": images(2, 2, 32)}


def volume() -> tuple[onnx.ModelProto, Feed]:
    """3-d convolutions."""
    net = Net(7)
    inner = net.op("Relu", net.conv("x", 4, 2, rank=3))
    return net.model(net.conv(inner, 3, 4, rank=3), {"x": (1, 2, 4, 4, 4)}, {}), {"x": images(1, 2, 4, 4, 4)}


def recommender() -> tuple[onnx.ModelProto, Feed]:
    """Two inputs: numbers, and ids looked up in a table; expanded, joined, two layers."""
    net = Net(8)
    looked = net.op("Gather", net.weight(20, 8), "ids")
    numbers = net.op("Relu", net.op("Gemm", "x", net.weight(4, 8, fan_in=4), net.weight(8, fan_in=9)))
    joined = net.op("Concat", looked, numbers, axis=1)
    deep = net.op("Relu", net.op("Gemm", joined, net.weight(16, 16), net.weight(1, fan_in=9)))
    picked = net.op("Gather", deep, net.const(np.array([0, 3, 5, 7])), axis=1)
    head = net.op("Gemm", picked, net.weight(4, 2))
    feed = {"x": images(6, 4), "ids": np.array([0, 3, 19, 7, 7, 1], np.int64)}
    return net.model(head, {"x": ("n", 4), "ids": ("n",)}, {"ids": TensorProto.INT64}), feed


ZOO: dict[str, Callable[[], tuple[onnx.ModelProto, Feed]]] = {
    made.__name__: made
    for made in (residual, depthwise, concat, decoder, gates, transformer, series, volume, recommender)
}


def table_of(path: Path, feed: Feed) -> CalibrationTable:
    """Ranges of every float tensor of the prepared model on one batch."""
    model = prepare(open_onnx(path))
    outputs = [value for node in model.graph for value in node.outputs if value.name and _is_float(value)]
    names = [str(value.name) for value in outputs]
    for value in outputs:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    session = Session(serialize(model), threads=1, optimize=False)
    values = dict(zip(names, session.run(names, feed), strict=True)) | feed
    return CalibrationTable(
        tensors={
            name: {"minmax": (float(array.min()), float(array.max()))}
            for name, array in values.items()
            if array.size and array.dtype == np.float32
        },
        samples=1,
        model_sha256=model_sha256(path),
        data_sha256="",
        versions={},
    )


def _is_float(value: ir.Value) -> bool:
    return value.dtype in {None, ir.DataType.FLOAT}
