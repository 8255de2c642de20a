"""Graphs at which OpenVINO's compiler crashes are known, and built so that it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from targets.engines import engine
from targets.engines.openvino_snippets import dense_layers_of_integers, joins_of_dense_layers
from targets.options import OpenVinoOptions
from targets.process import Limits, call_limited
from targets.profile import load_profile

WIDTH = 16


def _model(
    *, layers: int = 2, kind: str = "Gemm", rank: int = 2, join: str = "Add", other: str = "h"
) -> onnx.ModelProto:
    """Dense layers behind h = Relu(x); what they give meets ``other``, or nothing."""
    random, nodes, weights = np.random.default_rng(0), [helper.make_node("Relu", ["x"], ["h"], "first")], []
    current = "h"
    for index in range(layers):
        for name, shape in ((f"w{index}", (WIDTH, WIDTH)), (f"b{index}", (WIDTH,))):
            weights.append(numpy_helper.from_array(random.standard_normal(shape, np.float32), name))
        if kind == "Gemm":
            nodes.append(helper.make_node("Gemm", [current, f"w{index}", f"b{index}"], [f"d{index}"], f"dense{index}"))
        else:
            nodes.append(helper.make_node("MatMul", [current, f"w{index}"], [f"p{index}"], f"dense{index}"))
            nodes.append(helper.make_node("Add", [f"p{index}", f"b{index}"], [f"d{index}"], f"bias{index}"))
        nodes.append(helper.make_node("Tanh", [f"d{index}"], [f"t{index}"], f"tanh{index}"))
        current = f"t{index}"
    nodes.append(helper.make_node(join, [current, other] if join != "Neg" else [current], ["y"], "join"))
    shape = ["batch", *[4] * (rank - 2), WIDTH]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (_model(), ("join",)),
        (_model(kind="MatMul"), ("join",)),
        (_model(layers=4), ("join",)),
        (_model(join="Mul"), ("join",)),
        (_model(layers=1), ()),
        (_model(join="Neg"), ()),
        (_model(other="b0"), ()),
        (_model(kind="MatMul", rank=3), ()),
    ],
    ids=["gemm", "matmul", "four", "product", "one layer", "no join", "a constant", "a transformer's"],
)
def test_the_joins_are_named(model: onnx.ModelProto, named: tuple[str, ...]) -> None:
    """Two or more dense layers of two dimensions that meet an activation are found, and nothing else."""
    assert joins_of_dense_layers(model) == named


def test_such_a_graph_builds_and_computes(tmp_path: Path) -> None:
    """What crashes with snippets is built without them, in a child, and gives the reference's numbers."""
    if not engine("openvino").available().ok:
        pytest.skip(engine("openvino").available().why)
    host = load_profile("host")
    profile = host.model_copy(update={"engine": OpenVinoOptions(name="openvino"), "alternatives": ()})
    onnx.save(_model(), str(tmp_path / "m.onnx"))
    x = np.random.default_rng(1).standard_normal((3, WIDTH), np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    build = {
        "model": str(tmp_path / "m.onnx"), "profile": profile.model_dump(mode="json"), "precision": "fp32",
        "out_folder": str(tmp_path / "e"),
    }  # fmt: skip
    run = {
        "engine_folder": str(tmp_path / "e"), "inputs_npz": str(tmp_path / "in.npz"), "batch": 3,
        "out_npz": str(tmp_path / "out.npz"),
    }  # fmt: skip
    limits = Limits(timeout_s=300)
    made = call_limited("targets.engines.child:build_in_child", build, limits=limits, what="building")
    assert made["engine"]["options"]["snippets"] is False  # type: ignore[index]
    call_limited("targets.engines.child:infer_in_child", run, limits=limits, what="running")
    wanted = ReferenceEvaluator(_model()).run(None, {"x": x})[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], wanted, atol=1e-4)


def _integers(layers: int = 3, *, rank: int = 2) -> onnx.ModelProto:
    """Dense layers without bias, each between Q/DQ."""
    random, width = np.random.default_rng(0), 64
    stored = {"s": np.float32(0.03), "z": np.uint8(128), "ws": np.float32(0.004), "wz": np.int8(0)}
    nodes, current = [], "x"
    for index in range(layers):
        stored[f"w{index}"] = random.integers(-127, 128, (width, width)).astype(np.int8)
        nodes += [
            helper.make_node("QuantizeLinear", [current, "s", "z"], [f"q{index}"], f"quantise{index}"),
            helper.make_node("DequantizeLinear", [f"q{index}", "s", "z"], [f"r{index}"], f"read{index}"),
            helper.make_node("DequantizeLinear", [f"w{index}", "ws", "wz"], [f"v{index}"], f"weight{index}"),
            helper.make_node("MatMul", [f"r{index}", f"v{index}"], [f"d{index}"], f"dense{index}"),
        ]
        current = f"d{index}"
    nodes.append(helper.make_node("Identity", [current], ["y"], "last"))
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *[4] * (rank - 2), width]) for n in ("x", "y")
    ]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_dense_layers_of_integers_are_named() -> None:
    """Each that follows another, of two dimensions, in a model with Q/DQ."""
    assert dense_layers_of_integers(_integers()) == ("dense1", "dense2")
    assert dense_layers_of_integers(_integers(1)) == ()
    assert dense_layers_of_integers(_integers(rank=3)) == ()
    assert dense_layers_of_integers(_model(layers=3, join="Neg")) == ()


@pytest.mark.parametrize("count", [1, 8])
def test_dense_layers_of_integers_compute_in_small_batches(count: int, tmp_path: Path) -> None:
    """Built without snippets, which get them wrong."""
    if not engine("openvino").available().ok:
        pytest.skip(engine("openvino").available().why)
    profile = load_profile("host").model_copy(update={"engine": OpenVinoOptions(name="openvino"), "alternatives": ()})
    onnx.save(_integers(), tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((count, 64), np.float32)
    build = engine("openvino").build(tmp_path / "m.onnx", profile, tmp_path / "e", precision="int8")
    assert build.options["snippets"] is False
    with engine("openvino").open(build) as runner:
        found = runner.infer({"x": x})["y"]
    wanted = ReferenceEvaluator(_integers()).run(None, {"x": x})[0]
    assert np.square(found - wanted).sum() < 1e-3 * np.square(wanted).sum()
