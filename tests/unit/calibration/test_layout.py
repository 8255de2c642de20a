"""Promises of `calibration.layout`: no integer changes, sums are turned around no more, and nothing learns it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from calibration.collect import collect
from calibration.layout import Step, joins_of, layouts_us, turn_images, without_turns
from calibration.qdq import quantize_model
from calibration.quantized import read_quantized
from calibration.samples import CalibrationSet
from targets.costs import COSTS
from targets.scheme import scheme

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COSTS_HERE = replace(COSTS["ort-x86"], layout_us=50.0)
DIALECTS = ("ort-x86", "ort-x86-avx2")


def _quantised(
    net: Path, images: NDArray[np.float32], folder: Path, name: str, floats: tuple[str, ...] = ("stem",)
) -> onnx.ModelProto:
    out = folder / "q.onnx"
    table = collect(net, CalibrationSet({"x": images}, batch_size=16), threads=1)
    quantize_model(net, table, scheme(name), "minmax", out, float_nodes=floats)
    return onnx.load(out)


def _answers(model: onnx.ModelProto, images: NDArray[np.float32], level: str) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": images})
    return np.asarray(answer)


def _kinds(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("name", DIALECTS)
def test_no_answer_changes(residual_blocks: Path, images: NDArray[np.float32], tmp_path: Path, name: str) -> None:
    """Every bit of the outputs is the same, optimised or not, and the file is valid."""
    before = _quantised(residual_blocks, images, tmp_path, name)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    assert turn_images(after, COSTS_HERE) == ["r0"]
    onnx.checker.check_model(after, full_check=True)
    for level in ("DISABLE_ALL", "ENABLE_ALL"):
        np.testing.assert_array_equal(_answers(before, images, level), _answers(after, images, level))


def test_sums_are_turned_no_more(residual_blocks: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """The runtime keeps two transpositions for the whole net, where it had two for each sum; one layer more is int8."""
    model = _quantised(residual_blocks, images, tmp_path, "ort-x86")
    before = _kinds(model, tmp_path)
    turn_images(model, COSTS_HERE)
    after = _kinds(model, tmp_path)
    assert before["Transpose"] >= 4
    assert after["Transpose"] <= 2
    assert after["QLinearConv"] == before["QLinearConv"] + 1


@pytest.mark.parametrize(
    ("floats", "layout_us"),
    [((), 50.0), (("stem",), 0.0), (("stem",), 0.1)],
    ids=["nothing from float", "free", "cheaper than a layer"],
)
def test_nothing_is_added_where_it_does_not_pay(
    residual_blocks: Path, images: NDArray[np.float32], tmp_path: Path, floats: tuple[str, ...], layout_us: float
) -> None:
    """Without an image from float, or where transpositions take less, the file stays as it is."""
    model = _quantised(residual_blocks, images, tmp_path, "ort-x86", floats)
    before = model.SerializeToString(deterministic=True)
    assert turn_images(model, replace(COSTS_HERE, layout_us=layout_us)) == []
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", DIALECTS)
def test_what_learns_does_not_see_it(
    residual_blocks: Path, images: NDArray[np.float32], tmp_path: Path, name: str
) -> None:
    """Taken out, the file is the one before, byte by byte; and that is what is read to learn on."""
    model = _quantised(residual_blocks, images, tmp_path, name)
    before, layers = model.SerializeToString(deterministic=True), set(read_quantized(model).weights)
    turn_images(model, COSTS_HERE)
    assert model.SerializeToString(deterministic=True) != before
    assert set(read_quantized(model).weights) == layers
    assert without_turns(model).SerializeToString(deterministic=True) == before


def test_names_of_the_model_are_its_own() -> None:
    """A layer and tensors that happen to be called as what is added are left alone, and so are nodes without inputs."""
    step = numpy_helper.from_array(np.array(0.1, np.float32), "s__layout")
    nodes = [
        helper.make_node("RandomNormal", [], ["noise"], "noise", shape=[1, 4, 2, 2]),
        helper.make_node("Conv", ["x", "w__layout"], ["a__layout"], "a__layout"),
        helper.make_node("QuantizeLinear", ["a__layout", "s__layout"], ["q"], "a__layout__QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "s__layout"], ["y"], "read"),
    ]
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 2, 2])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 2, 2])
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w__layout")
    model = helper.make_model(helper.make_graph(nodes, "net", [image], [out], [weight, step]))
    before = model.SerializeToString(deterministic=True)
    assert turn_images(model, COSTS_HERE) == []
    assert without_turns(model).SerializeToString(deterministic=True) == before


@settings(max_examples=50, deadline=None)
@given(data=st.data(), count=st.integers(1, 12))
def test_joins_are_counted_as_they_spread(data: st.DataObject, count: int) -> None:
    """Joins are those integer operators with two images or more, one of which comes from the root along such ones."""
    steps, names = [], ["root", "other"]
    for index in range(count):
        reads = tuple(data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)))
        steps.append(Step(reads=reads, makes=(f"v{index}",), passes=data.draw(st.booleans())))
        names.append(f"v{index}")
    by_name = {step.makes[0]: step for step in steps}

    def kept(name: str) -> bool:
        step = by_name.get(name)
        return name == "root" or (step is not None and step.passes and any(kept(read) for read in step.reads))

    wanted = sum(kept(step.makes[0]) and len(step.reads) > 1 for step in steps)
    assert joins_of("root", steps, set(names)) == wanted


@given(joins=st.integers(0, 50), channels=st.integers(1, 512), pixels=st.integers(1, 10_000))
def test_the_cheaper_way_is_what_it_costs(joins: int, channels: int, pixels: int) -> None:
    """Never more than the transpositions, never more than the convolution, nothing without joins."""
    cost = layouts_us(COSTS_HERE, joins, channels, channels * pixels)
    assert cost <= joins * COSTS_HERE.layout_us
    assert cost <= COSTS_HERE.layer_us(channels * pixels, "depthwise", int8=True)
    assert (cost == 0.0) == (joins == 0)
