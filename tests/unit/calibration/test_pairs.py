"""Weights whose pairs fit 16 bits, in the order of every kernel that pairs them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.collect import collect
from calibration.pairs import fits, paired_scales, room
from calibration.qdq import quantize_model
from calibration.quantized import read_quantized
from calibration.rounding import learn_rounding
from calibration.samples import CalibrationSet
from calibration.saturation import forecast
from calibration.session import Session
from calibration.torchlearn import Trainable
from targets.engines import engine
from targets.ondevice.openvino_module import import_openvino
from targets.onnxfile import open_onnx
from targets.scheme import scheme

Integers = NDArray[np.int64]


def neighbours(shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Index pairs of one output channel of (O, I, k...) that a kernel adds in 16 bits, one by one."""
    inputs, window = shape[1], [*itertools.product(*map(range, shape[2:]))]
    row = [(channel, *place) for place in window for channel in range(inputs)]
    found = [(row[k], row[k + 1]) for k in range(0, len(row) - 1, 2)]  # (kH, kW, C) in one row
    return found + [((c, *place), (c + 1, *place)) for place in window for c in range(0, inputs - 1, 2)]


def worst(weight: Integers) -> int:
    """The sum farthest from zero that inputs of 0 to 255 drive a pair to, in units of its 16 bits: at most 32768."""
    most = 0
    for channel in weight:
        for one, other in neighbours(weight.shape):
            pair = int(channel[one]), int(channel[other])
            most = max(most, 255 * sum(max(w, 0) for w in pair), 255 * sum(max(-w, 0) for w in pair) - 1)
    return most


@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([(3, 4, 3, 3), (2, 5, 3, 2), (3, 1, 3, 3), (4, 7, 1, 1), (2, 6, 5), (3, 3, 2, 2)]),
    tails=st.floats(0.3, 4.0),
)
@settings(max_examples=60, deadline=None)
def test_rounded_weights_fit_and_use_the_room(seed: int, shape: tuple[int, ...], tails: float) -> None:
    """No pair leaves 16 bits, every scale is at most that of 7 bits, and each channel is as fine as it may be."""
    rng = np.random.default_rng(seed)
    weight = np.sign(rng.normal(size=shape)) * np.abs(rng.normal(size=shape)) ** tails
    scales = paired_scales(weight, 0, 1)
    assert scales is not None
    outer = (-1, *[1] * (len(shape) - 1))
    integers = np.rint(weight / scales.reshape(outer)).astype(np.int64)
    assert fits(integers, 0, 1)
    assert worst(integers) <= 32767
    assert np.abs(integers).max() <= 127
    largest = np.abs(weight).reshape(shape[0], -1).max(axis=1)
    assert np.all(scales <= largest / 63 * 1.0001)
    finer = np.rint(weight / (0.98 * scales).reshape(outer)).astype(np.int64)
    for channel in range(shape[0]):
        assert worst(finer[channel][None]) > 32767 or np.abs(finer[channel]).max() > 127


@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(3, 4, 3, 3), (2, 5, 3, 3), (2, 3, 4), (4, 1, 2, 2)]))
@settings(max_examples=40, deadline=None)
def test_whatever_moves_within_its_room_fits(seed: int, shape: tuple[int, ...]) -> None:
    """Each integer anywhere between its own bounds, all at once: no pair leaves 16 bits; the bounds hold the start."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=shape)
    scales = paired_scales(weight, 0, 1)
    assert scales is not None
    integers = np.rint(weight / scales.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
    low, high = room(integers, 0)
    assert low.shape == high.shape == integers.shape
    assert np.all((low <= integers) & (integers <= high))
    for chosen in (low, high, np.where(rng.random(shape) < 0.5, low, high)):
        assert worst(chosen.astype(np.int64)) <= 32767
    assert (high - integers).mean() > 8


def test_matrices_pair_along_what_is_summed() -> None:
    """A matrix (K, N) and its transpose get the same scales; two large neighbours of one sign share 128."""
    weight = np.array([[1.0, 1.0], [1.0, -1.0], [0.1, 0.1]])
    scales = paired_scales(weight, 1, 1)
    assert scales == pytest.approx([2 / 127.99, 1 / 127])
    np.testing.assert_array_equal(paired_scales(weight.T, 0, 1), scales)


def test_what_widens_or_is_unknown() -> None:
    """A depthwise filter keeps all 8 bits; where pairs are not known there is no answer."""
    assert paired_scales(np.ones((4, 1, 3, 3)), 0, 4) == pytest.approx(np.full(4, 1 / 127))
    assert paired_scales(np.ones((4, 1, 3, 3)), 0, 1) == pytest.approx(np.full(4, 2 / 127.99))
    assert not fits(np.ones((4, 1, 3, 3), np.int8), 0, 4)
    assert paired_scales(np.ones((2, 3, 4)), 2, 1) is None
    assert not fits(np.ones((2, 3, 4), np.int8), 2, 1)


def test_what_is_learned_still_fits(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Learned rounding, and training however far weights are driven, leave no pair that can overflow."""
    samples, out, learned = CalibrationSet({"x": images[:16]}, batch_size=16), tmp_path / "q.onnx", tmp_path / "r.onnx"
    quantize_model(residual, collect(residual, samples, threads=1), scheme("ort-x86-avx2"), "mse", out)
    learn_rounding(residual, out, samples, learned, steps=8, learning_rate=1.0)
    assert forecast(learned, samples, threads=1).safe
    before, graph = read_quantized(open_onnx(out)), read_quantized(open_onnx(learned))
    assert any((before.array(w.integers) != graph.array(w.integers)).any() for w in graph.weights.values())
    trained = Trainable(graph, {})
    for weight in trained.weights:
        weight.data *= 40.0
    trained.write()
    graph.save(tmp_path / "t.onnx")
    assert forecast(tmp_path / "t.onnx", samples, threads=1).safe
    assert any(np.abs(graph.array(w.integers).astype(int)).max() > 63 for w in graph.weights.values())


def widest(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int8]:
    """Weights of one sign in each channel, as large as pairs allow: any other pairing of neighbours overflows."""
    partners: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for one, other in neighbours(shape):
        partners.setdefault(one, []).append(other)
        partners.setdefault(other, []).append(one)
    weight = np.zeros(shape, np.int8)
    for channel in weight:
        channel[...] = sign = rng.choice([-1, 1])
        for index in rng.permutation([*np.ndindex(channel.shape)]).tolist():
            if all(abs(channel[partner]) == 1 for partner in partners.get(tuple(index), [])):
                channel[tuple(index)] = 127 * sign
    return weight


@pytest.mark.parametrize("shape", [(16, 16, 3, 3), (16, 3, 3, 3), (16, 5, 3, 3), (16, 64, 1, 1), (16, 1, 5, 5)])
def test_engines_pair_as_told(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Inputs of 0 and 255 on the widest weights give exact sums in ONNX Runtime and OpenVINO, on any CPU."""
    rng = np.random.default_rng(0)
    weight = widest(shape, rng)
    assert fits(weight, 0, 1)
    assert np.abs(weight.astype(int)).max() == 127
    scale = float(np.abs(weight.astype(int)).sum(axis=(1, 2, 3)).max()) * 255 / 120
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "w": weight, "ws": np.ones(shape[0], np.float32),
        "wz": np.zeros(shape[0], np.int8), "ys": np.float32(scale), "yz": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["k"], axis=0),
        helper.make_node("Conv", ["d", "k"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", shape[1], 8, 8])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    images = (255 * rng.integers(0, 2, (8, shape[1], 8, 8))).astype(np.float32)
    exact = Session(tmp_path / "m.onnx", threads=1, optimize=False).run(None, {"x": images})[0]
    assert len(np.unique(exact)) > 20
    found = {"onnxruntime": Session(tmp_path / "m.onnx", threads=1, optimize=True).run(None, {"x": images})[0]}
    if engine("openvino").available().ok:
        core = import_openvino().Core()
        compiled = core.compile_model(core.read_model(tmp_path / "m.onnx"), "CPU", {"INFERENCE_NUM_THREADS": 1})
        found["openvino"] = compiled.create_infer_request().infer({"x": images})[compiled.output(0)]
    for name, array in found.items():
        assert np.abs(array - exact).max() <= 1.01 * scale, name  # a tie may round either way
