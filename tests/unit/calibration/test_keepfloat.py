"""Layers left in float amid integers are float in the runtime, whatever the layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from calibration.collect import collect
from calibration.qdq import quantize_model, snr_db
from calibration.quantized import read_quantized
from calibration.samples import CalibrationSet
from calibration.session import Session
from calibration.torchexec import TorchGraph
from calibration.torchlearn import to_tensors
from targets.engines.asked import asked_for
from targets.engines.lint_graph import GraphView
from targets.engines.lint_onnxruntime import lint_onnxruntime
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.onnxfile import open_onnx
from targets.scheme import SCHEMES, scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIDDLES = {
    "convolution": ("Conv", (8, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "groups": ("Conv", (8, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 4}),
    "depthwise": ("Conv", (8, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 8}),
    "transposed": ("ConvTranspose", (8, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
}


def chain(kind: str, rng: np.random.Generator) -> onnx.ModelProto:
    """Three layers with Relu; the middle one's weights span five decades, so that one scale for all ruins them."""
    op, shape, attributes = MIDDLES[kind]
    middle = rng.normal(size=shape) * 10.0 ** rng.uniform(-5, 0, (shape[0], 1, 1, 1))
    weights = {"w0": rng.normal(size=(8, 3, 3, 3)), "w1": middle, "w2": rng.normal(size=(8, 8, 3, 3)) / 9.0}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["c0"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node(op, ["r0", "w1", "b"], ["c1"], "middle", **attributes),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b"], ["y"], "last", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8, 8, 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.zeros(8, np.float32), "b")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)


@pytest.mark.parametrize("kind", MIDDLES)
def test_the_runtime_leaves_it_in_float(kind: str, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Its weights reach the optimised graph bit for bit; the file reads back and runs in torch as in the runtime."""
    source, out, optimised = tmp_path / "net.onnx", tmp_path / "q.onnx", tmp_path / "o.onnx"
    model = chain(kind, np.random.default_rng(0))
    onnx.save(model, source)
    samples = CalibrationSet({"x": images}, batch_size=20)
    table = collect(source, samples, threads=1)
    quantize_model(source, table, scheme("ort-x86-avx2"), "minmax", out, float_nodes=["middle"])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    found = onnx.load(optimised)
    op = MIDDLES[kind][0]
    kinds = [node.op_type for node in found.graph.node]
    assert (kinds.count("QLinearConv"), sum(name in {op, f"Fused{op}"} for name in kinds)) == (2, 1)
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w1")
    assert any(np.array_equal(numpy_helper.to_array(t), weight) for t in found.graph.initializer)
    graph = read_quantized(open_onnx(out))
    assert set(graph.activations) == {"x", "r0", "r1", "y"}
    answer = Session(out, threads=1, optimize=True).run(None, {"x": images})[0]
    in_torch = TorchGraph(graph.model)(to_tensors({"x": images}))["y"].detach().numpy()
    assert snr_db(answer, in_torch) > 45.0


@pytest.mark.parametrize("dialect", sorted(SCHEMES))
def test_linters_read_the_scales_it_lays_out(dialect: str, images: NDArray[np.float32], tmp_path: Path) -> None:
    """A dialect with a layer left in float passes its linter; TensorRT's names a reading by channel."""
    source, out = tmp_path / "net.onnx", tmp_path / "q.onnx"
    onnx.save(chain("convolution", np.random.default_rng(0)), source)
    table = collect(source, CalibrationSet({"x": images}, batch_size=20), threads=1)
    quantize_model(source, table, scheme(dialect), "minmax", out, float_nodes=["middle"])
    model = open_onnx(out)
    reading = [node for node in model.graph.node if node.name == "middle__read"]
    assert asked_for(model, "int8") == 2
    assert lint_onnxruntime(model) == []
    said = [fault for fault in lint_tensorrt(model) if "middle__read" in fault.where]
    if dialect == "trt":
        assert (reading, lint_tensorrt(model)) == ([], [])
        return
    view, single = GraphView(model), GraphView(model).constant("r0__scale")
    assert single is not None
    scales = view.constant(reading[0].input[1])
    assert scales is not None
    assert (scales.tolist(), view.type_of(reading[0].input[1])) == ([single.item()] * 8, "float32")
    zeros = view.zero_point(reading[0])
    assert zeros is not None
    assert (zeros.shape, zeros.dtype) == ((8,), np.dtype(scheme(dialect).activation_dtype))
    assert any("one scale for each channel" in fault.what for fault in said)


def test_scales_that_are_learned_reach_its_reading(images: NDArray[np.float32], tmp_path: Path) -> None:
    """A new scale of the activation is the scale of every reading, the one by channel too."""
    source, out = tmp_path / "net.onnx", tmp_path / "q.onnx"
    onnx.save(chain("convolution", np.random.default_rng(0)), source)
    samples = CalibrationSet({"x": images}, batch_size=20)
    quantize_model(source, collect(source, samples, threads=1), scheme("ort-x86"), "mse", out, float_nodes=["middle"])
    graph = read_quantized(open_onnx(out))
    name = graph.activations["r0"].scale
    graph.write_scale(name, graph.array(name) * np.float32(1.5))
    graph.save(tmp_path / "scaled.onnx")
    before, after = (Session(p, threads=1, optimize=False) for p in (out, tmp_path / "scaled.onnx"))
    small = {"x": images[:4] * np.float32(0.3)}
    assert snr_db(before.run(None, small)[0], after.run(None, small)[0]) > 25.0
