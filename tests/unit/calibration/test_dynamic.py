"""Promises of dynamic int8."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from calibration.dynamic import quantize_dynamic_model
from calibration.formats import FormatReport
from calibration.integerops import dynamic_affine, possible_share
from calibration.qdq import snr_db
from calibration.session import Session
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def run(path: Path, x: NDArray[np.float32]) -> list[NDArray[np.generic]]:
    return Session(path, threads=1, optimize=True).run(None, {"x": x})


def integer_product(x: NDArray[np.float32], weight: NDArray[np.float32], bits: int = 8) -> NDArray[np.float64]:
    """X (.., K) times weight (K, N) in dynamic int8, in float64."""
    scale, zero, integers = dynamic_affine(x)
    exact = weight.astype(np.float64)
    steps = np.maximum(np.abs(exact).max(axis=0), 1e-30) / 127
    if bits == 7:  # neighbours of one sign share 128
        padded = np.pad(exact, ((0, len(exact) % 2), (0, 0)))
        for sign in (1, -1):
            steps = np.maximum(
                steps, np.add(*(np.maximum(sign * padded[i::2], 0) for i in (0, 1))).max(axis=0) / 127.99
            )
    steps = steps.astype(np.float32).astype(np.float64)
    rounded = np.rint(weight / steps)
    return (integers.astype(np.float64) - zero) @ rounded * float(scale) * steps


@given(
    seed=st.integers(0, 2**32),
    lead=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    inner=st.integers(1, 40),
    outer=st.integers(1, 20),
)
@settings(max_examples=12, deadline=None)
def test_products_of_all_shapes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lead: list[int], inner: int, outer: int
) -> None:
    """MatMul of any rank gives what integers give in float64."""
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("dynamic")
    weight = rng.normal(size=(inner, outer)).astype(np.float32)
    x = rng.normal(size=(*lead, inner)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", *lead[1:], inner])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", *lead[1:], outer])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    quantize_dynamic_model(model, folder / "o.onnx", min_elements=0, weight_bits=7)
    wanted = integer_product(x, weight, 7)
    np.testing.assert_allclose(run(folder / "o.onnx", x)[0], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def mlp(save: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(32, 64)).astype(np.float32),
        "w2": rng.normal(size=(48, 32)).astype(np.float32),
        "b2": rng.normal(size=48).astype(np.float32),
        "tiny": rng.normal(size=(64, 2)).astype(np.float32),
        "kernel": rng.normal(size=(1, 1, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "one"),
        helper.make_node("Gemm", ["x", "w2", "b2"], ["b"], "two", transB=1),
        helper.make_node("MatMul", ["a", "tiny"], ["c"], "small"),
        helper.make_node("Concat", ["a", "b", "c"], ["y"], "join", axis=1),
    ]
    return save(nodes, constants, inputs={"x": ["n", 32]}, outputs={"y": ["n", 114]})


def test_the_runtime_joins_the_operators(save: Callable[..., Path], tmp_path: Path) -> None:
    """Products that read one tensor share its quantisation, and the runtime makes integer operators of them."""
    source, out = mlp(save), tmp_path / "o.onnx"
    report = quantize_dynamic_model(source, out, min_elements=1000)
    assert isinstance(report, FormatReport)
    assert report.changed == {"one": "MatMulInteger", "two": "MatMulInteger"}
    assert "fewer than 1000" in report.left["small"]
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert Counter(node.op_type for node in model.graph.node)["DynamicQuantizeLinear"] == 1
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    fused = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert fused["MatMulIntegerToFloat"] == 2
    assert fused.keys().isdisjoint({"Gemm", "MatMulInteger"})
    x = np.random.default_rng(1).normal(size=(9, 32)).astype(np.float32)
    assert snr_db(run(source, x)[0], run(out, x)[0]) > 33


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm(save: Callable[..., Path], tmp_path: Path, direction: str) -> None:
    """An LSTM of every direction, with biases and all three outputs, is near the float one; so is its state."""
    rng = np.random.default_rng(0)
    ways = 2 if direction == "bidirectional" else 1
    constants = {
        "w": (rng.normal(size=(ways, 96, 20)) * 0.2).astype(np.float32),
        "r": (rng.normal(size=(ways, 96, 24)) * 0.2).astype(np.float32),
        "b": (rng.normal(size=(ways, 192)) * 0.1).astype(np.float32),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], "cell", hidden_size=24, direction=direction),
        helper.make_node("Add", ["h", "c"], ["z"], "sum"),
    ]
    outputs = {"y": [7, ways, "n", 24], "z": [ways, "n", 24]}
    source = save(nodes, constants, inputs={"x": [7, "n", 20]}, outputs=outputs, opset=17)
    out = tmp_path / "o.onnx"
    report = quantize_dynamic_model(source, out, min_elements=0)
    assert report.changed == {"cell": "DynamicQuantizeLSTM"}
    assert report.after_bytes < report.before_bytes / 2
    x = rng.normal(size=(7, 3, 20)).astype(np.float32)
    for wanted, found in zip(run(source, x), run(out, x), strict=True):
        assert snr_db(wanted, found) > 30


def test_what_stays_float_says_why(save: Callable[..., Path], tmp_path: Path) -> None:
    """A GRU has no dynamic int8 form; a model with nothing else is an error that says so."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(1, 24, 8)).astype(np.float32),
        "r": rng.normal(size=(1, 24, 8)).astype(np.float32),
    }
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], "cell", hidden_size=8)
    source = save([node], constants, inputs={"x": [4, "n", 8]}, outputs={"y": [4, 1, "n", 8]}, opset=17)
    with pytest.raises(InputError, match="no dynamic int8 GRU"):
        quantize_dynamic_model(source, tmp_path / "o.onnx", min_elements=0)
    assert not (tmp_path / "o.onnx").exists()


def test_bits_are_seven_or_eight(save: Callable[..., Path], tmp_path: Path) -> None:
    """Seven bits are up to eight where no pair can leave 16 bits; other numbers are refused."""
    source, out = mlp(save), tmp_path / "o.onnx"
    quantize_dynamic_model(source, out, min_elements=0, weight_bits=7)
    stored = [t for t in onnx.load(out).graph.initializer if t.data_type == onnx.TensorProto.INT8]
    arrays = [onnx.numpy_helper.to_array(t) for t in stored if len(t.dims) == 2]
    assert arrays
    assert all(possible_share(array) == 0.0 and 63 < np.abs(array.astype(int)).max() <= 127 for array in arrays)
    with pytest.raises(InputError, match="4 bits"):
        quantize_dynamic_model(source, out, weight_bits=4)


def test_same_arguments_same_bytes(save: Callable[..., Path], tmp_path: Path) -> None:
    """Two conversions of one file are equal byte for byte; a quantised model is refused."""
    source = mlp(save)
    for name in ("a.onnx", "b.onnx"):
        quantize_dynamic_model(source, tmp_path / name, min_elements=0)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(InputError, match="quantised already"):
        quantize_dynamic_model(tmp_path / "a.onnx", tmp_path / "c.onnx")


def test_an_lstm_whose_weights_are_joined_in_the_graph_runs_in_int8(save: Callable[..., Path], tmp_path: Path) -> None:
    """Promise: weights that an exporter cuts and joins gate by gate (as torch does) count as weights at any size."""
    rng, hidden = np.random.default_rng(0), 96
    weights = {
        "w": rng.normal(0.0, 0.1, (4 * hidden, 64)).astype(np.float32),
        "r": rng.normal(0.0, 0.1, (4 * hidden, hidden)).astype(np.float32),
    }
    ends = {f"at{gate}": np.array([gate * hidden], np.int64) for gate in range(5)}
    nodes = []
    for name in weights:
        cut = [f"{name}{gate}" for gate in range(4)]
        nodes += [helper.make_node("Slice", [name, f"at{i}", f"at{i + 1}", "at0"], [cut[i]]) for i in range(4)]
        nodes.append(helper.make_node("Concat", [cut[i] for i in (0, 3, 1, 2)], [f"{name}_joined"], axis=0))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_joined", "at0"], [f"{name}_in"]))
    nodes.append(helper.make_node("LSTM", ["x", "w_in", "r_in"], ["y"], "cell", hidden_size=hidden))
    path = save(nodes, weights | ends, inputs={"x": [5, "n", 64]}, outputs={"y": [5, 1, "n", hidden]})
    report = quantize_dynamic_model(path, tmp_path / "int8.onnx")
    assert report.changed == {"cell": "DynamicQuantizeLSTM"}
