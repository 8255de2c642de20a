"""Promises of equalisation and smoothing: the same function, on nets whose structure is drawn."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibration.equalize import equalize
from calibration.samples import CalibrationSet
from calibration.session import Session
from calibration.smooth import smooth
from targets.errors import InputError

FLOAT = TensorProto.FLOAT


class Drawn:
    """Builds a net of convolutions in NCHW node by node."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.count = 0

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        self.count += 1
        name = f"t{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"n{self.count}", **attributes))
        return name

    def constant(self, array: object) -> str:
        self.count += 1
        name = f"c{self.count}"
        self.constants[name] = np.asarray(array)
        return name

    def uneven(self, *shape: int) -> str:
        """A weight whose output channels differ much in size."""
        sizes = np.exp(self.rng.normal(0, 1.2, (shape[0],) + (1,) * (len(shape) - 1)))
        weight = self.rng.standard_normal(shape) * sizes / np.sqrt(max(np.prod(shape[1:]), 1))
        return self.constant(weight.astype(np.float32))

    def vector(self, size: int) -> str:
        return self.constant((self.rng.standard_normal(size) * 0.3).astype(np.float32))

    def conv(self, x: str, ins: int, outs: int, *, group: int = 1, kernel: int = 3) -> str:
        inputs = [x, self.uneven(outs, ins // group, kernel, kernel)]
        if self.rng.random() < 0.8:
            inputs.append(self.vector(outs))
        return self.node("Conv", inputs, group=group, pads=[kernel // 2] * 4)

    def activation(self, x: str, channels: int) -> str:
        kind = ["LeakyRelu", "PRelu", "Clip", "Sigmoid", "MaxPool", "Relu", "Relu"][self.rng.integers(7)]
        extra: list[object] = {
            "PRelu": [np.full((channels, 1, 1), 0.3, np.float32)],
            "Clip": [np.float32(0), np.float32(0.5)],
        }.get(kind, [])
        window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} if kind == "MaxPool" else {}
        return self.node(kind, [x, *(self.constant(array) for array in extra)], **window)

    def block(self, x: str, channels: int) -> tuple[str, int]:  # noqa: PLR0911 - one a kind
        """One of: wider layer, residual sum, depthwise triple, concat, padded shortcut, channel slice, constant sum."""
        kind = self.rng.integers(7)
        if kind == 0:
            return self.activation(self.conv(x, channels, channels + 2), channels + 2), channels + 2
        if kind == 1:
            inner = self.activation(self.conv(x, channels, channels), channels)
            return self.node("Add", [self.conv(inner, channels, channels), x]), channels
        if kind == 2:
            depthwise = self.activation(self.conv(x, channels, channels, group=channels), channels)
            return self.conv(depthwise, channels, channels, kernel=1), channels
        if kind == 3:
            other = self.activation(self.conv(x, channels, 3), 3)
            return self.node("Concat", [x, other], axis=1), channels + 3
        if kind == 4:
            pads = self.constant(np.array([0, 1, 0, 0, 0, 1, 0, 0], np.int64))
            padded = self.node("Pad", [x, pads])
            return self.node("Add", [self.conv(x, channels, channels + 2), padded]), channels + 2
        if kind == 5:
            ends = [self.constant(np.array([n], np.int64)) for n in (1, channels, 1)]
            return self.node("Slice", [x, *ends]), channels - 1
        return self.node("Add", [self.conv(x, channels, channels), self.constant(np.float32(0.4))]), channels

    def model(self, blocks: int) -> onnx.ModelProto:
        x, channels = self.activation(self.conv("x", 3, 6), 6), 6
        for _ in range(blocks):
            x, channels = self.block(x, channels)
        head = ["GlobalAveragePool", "flat"][self.rng.integers(2)]
        if head == "GlobalAveragePool":
            x, width = self.node(head, [x]), channels
        else:
            width = channels * 36
        x = self.node("Flatten", [x], axis=1)
        hidden = self.node("MatMul", [x, self.constant((self.rng.standard_normal((width, 5)) / 9).astype(np.float32))])
        hidden = self.node("Relu", [self.node("Add", [hidden, self.vector(5)])])
        last = [hidden, self.uneven(4, 5), self.vector(4)]
        self.nodes.append(helper.make_node("Gemm", last, ["y"], "head", transB=1))
        return built(self.nodes, self.constants, {"x": ["batch", 3, 6, 6]}, {"y": ["batch", 4]})


def transformer(seed: int, *, decomposed: bool = False) -> onnx.ModelProto:
    """Two pre-norm feed-forward layers on tokens (batch, 5, 8), with a few large activation channels."""
    drawn = Drawn(seed)
    x = "x"
    for _ in range(2):
        scale = np.exp(drawn.rng.normal(0, 1.5, 8)).astype(np.float32)
        if decomposed:
            axes = drawn.constant(np.array([-1], np.int64))
            centred = drawn.node("Sub", [x, drawn.node("ReduceMean", [x, axes])])
            power = drawn.node("ReduceMean", [drawn.node("Mul", [centred, centred]), axes])
            root = drawn.node("Sqrt", [drawn.node("Add", [power, drawn.constant(np.float32(1e-5))])])
            normed = drawn.node("Mul", [drawn.node("Div", [centred, root]), drawn.constant(scale)])
            normed = drawn.node("Add", [normed, drawn.vector(8)])
        else:
            normed = drawn.node("LayerNormalization", [x, drawn.constant(scale), drawn.vector(8)], axis=-1)
        wide = drawn.node("MatMul", [normed, drawn.constant(drawn.rng.standard_normal((8, 12)).astype(np.float32) / 3)])
        wide = drawn.node("Relu", [drawn.node("Add", [wide, drawn.vector(12)])])
        back = drawn.node("MatMul", [wide, drawn.constant(drawn.rng.standard_normal((12, 8)).astype(np.float32) / 3)])
        x = drawn.node("Add", [back, x])
    drawn.nodes.append(helper.make_node("Identity", [x], ["y"], "last"))
    return built(drawn.nodes, drawn.constants, {"x": ["batch", 5, 8]}, {"y": ["batch", 5, 8]})


def built(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return Session(model.SerializeToString(), threads=1, optimize=False).run(None, {"x": x})[0]


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def same_function(one: onnx.ModelProto, other: onnx.ModelProto, x: np.ndarray) -> None:
    expected = outputs(one, x)
    assert np.abs(outputs(other, x) - expected).max() <= 1e-5 * np.abs(expected).max()


def images(seed: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 6)).astype(np.float32)


def tokens(seed: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 5, 8)).astype(np.float32)


def chain(nodes: list[tuple[str, dict[str, object]]], *, group: int = 1, clip: float | None = None) -> onnx.ModelProto:
    """Conv a, then these nodes, then Conv b; ``group`` of Conv b."""
    drawn = Drawn(3)
    drawn.constants |= {
        "a": drawn.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
        * np.array([8, 1, 0.5, 0.1], np.float32).reshape(-1, 1, 1, 1),
        "b": drawn.rng.standard_normal((4, 4 // group, 1, 1)).astype(np.float32),
    }
    drawn.nodes.append(helper.make_node("Conv", ["x", "a"], ["u"], "first"))
    x = "u"
    for op, attributes in nodes:
        extra = [drawn.constant(np.float32(0)), drawn.constant(np.float32(clip))] if clip is not None else []
        x = drawn.node(op, [x, *extra], **attributes)
    drawn.nodes.append(helper.make_node("Conv", [x, "b"], ["y"], "second", group=group))
    return built(drawn.nodes, drawn.constants, {"x": ["batch", 3, 6, 6]}, {"y": ["batch", 4, 6, 6]})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), blocks=st.integers(1, 4))
def test_an_equalised_net_computes_the_same(seed: int, blocks: int) -> None:
    """On random nets of all kinds of layers and links, outputs agree to 1e-5 of the largest."""
    model = Drawn(seed).model(blocks)
    same_function(model, equalize(model)[0], images(seed))


def test_most_drawn_nets_have_something_to_scale() -> None:
    """The property above is no empty one."""
    assert sum(bool(equalize(Drawn(seed).model(2))[1].tensors) for seed in range(12)) >= 8


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_a_smoothed_net_computes_the_same(seed: int, alpha: float) -> None:
    """Whatever alpha, on random convolutional nets in full scope, outputs agree to 1e-5 of the largest."""
    model = Drawn(seed).model(2)
    samples = CalibrationSet({"x": images(seed)}, batch_size=4)
    same_function(model, smooth(model, samples, alpha=alpha, threads=1, scope="all")[0], images(seed + 1))


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("scope", ["norms", "all"])
def test_a_smoothed_transformer_computes_the_same(decomposed: bool, scope: str) -> None:  # noqa: FBT001
    """Normalisations, whole or written out, take the factors up: same outputs, and more even activations."""
    model = transformer(1, decomposed=decomposed)
    samples = CalibrationSet({"x": tokens(0)}, batch_size=4)
    smoothed, report = smooth(model, samples, threads=1, scope=scope)  # type: ignore[arg-type]
    same_function(model, smoothed, tokens(1))
    assert len(report.tensors) >= 2
    assert report.after_ratio < report.before_ratio


def test_two_layers_get_equal_ranges() -> None:
    """Between two layers, each channel's largest weight is the same on both sides afterwards (the paper's optimum)."""
    model, report = equalize(chain([("Relu", {})]))
    made = np.abs(weight(model, "a")).max(axis=(1, 2, 3))
    read = np.abs(weight(model, "b")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(made, read, rtol=1e-2)
    assert report.channels == 4
    assert report.after_ratio < report.before_ratio


def test_a_depthwise_layer_is_passed_through() -> None:
    """The first layer and the depthwise one behind it share their ranges too."""
    model, report = equalize(chain([("Relu", {})], group=4))
    made = np.abs(weight(model, "a")).max(axis=(1, 2, 3))
    read = np.abs(weight(model, "b")).max(axis=(1, 2, 3))
    np.testing.assert_allclose(made, read, rtol=1e-2)
    assert report.tensors


@pytest.mark.parametrize(("op", "clip"), [("Sigmoid", None), ("Clip", 6.0), ("Softplus", None)])
def test_what_does_not_keep_scales_stays(op: str, clip: float | None) -> None:
    """Behind a nonlinearity that is not homogeneous, nothing is scaled and no weight changes."""
    before = chain([(op, {})], clip=clip)
    model, report = equalize(before)
    assert not report.tensors
    assert report.channels == report.constants == 0
    np.testing.assert_array_equal(weight(model, "a"), weight(before, "a"))


def test_equalised_weights_lose_less_with_one_scale_a_tensor() -> None:
    """With one scale for each tensor, rounding the weights of an uneven chain costs less after equalisation."""
    before = chain([("Relu", {})])
    x = images(0, 32)

    def loss(model: onnx.ModelProto) -> float:
        rounded = onnx.ModelProto.FromString(model.SerializeToString())
        for tensor in rounded.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim == 4:
                step = np.abs(array).max() / 127
                tensor.CopyFrom(numpy_helper.from_array((np.rint(array / step) * step).astype(np.float32), tensor.name))
        return float(np.square(outputs(rounded, x) - outputs(before, x)).sum())

    assert loss(equalize(before)[0]) < 0.5 * loss(before)


def test_a_weight_of_two_layers_keeps_its_values() -> None:
    """A weight that two layers read cannot follow both, so it is left alone and the function stays."""
    drawn = Drawn(0)
    drawn.constants["w"] = drawn.rng.standard_normal((3, 3, 1, 1)).astype(np.float32)
    for name, source, out in (("one", "x", "u"), ("two", "v", "y")):
        drawn.nodes.append(helper.make_node("Conv", [source, "w"], [out], name))
        if out == "u":
            drawn.nodes.append(helper.make_node("Relu", ["u"], ["v"], "relu"))
    model = built(drawn.nodes, drawn.constants, {"x": ["batch", 3, 6, 6]}, {"y": ["batch", 3, 6, 6]})
    same, report = equalize(model)
    assert not report.tensors
    np.testing.assert_array_equal(weight(same, "w"), weight(model, "w"))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    """Alpha must lie between 0 and 1."""
    with pytest.raises(InputError, match="alpha"):
        smooth(transformer(0), CalibrationSet({"x": tokens(0)}, batch_size=2), alpha=alpha, threads=1)


def test_samples_of_another_model_are_refused() -> None:
    """Both names are told."""
    with pytest.raises(InputError, match="other"):
        smooth(transformer(0), CalibrationSet({"other": tokens(0)}, batch_size=2), threads=1)
