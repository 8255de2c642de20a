"""Tiny models for the contract suites: one float, two with explicit Q/DQ, all with a free batch axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

FREE_BATCH = ["batch", 3, 8, 8]


def _save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int | str]) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def float_model(path: Path, shape: list[int | str] | None = None) -> Path:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm."""
    rng = np.random.default_rng(7)
    constants = {
        "w": rng.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=16).astype(np.float32),
        "v": rng.normal(size=(4, 16)).astype(np.float32),
        "c": rng.normal(size=4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], name="head", transB=1),
    ]
    return _save(path, nodes, constants, shape or FREE_BATCH)


def int8_model(path: Path) -> Path:
    """Conv with u8 activations and s8 weights between explicit Q/DQ, then a float Gemm."""
    rng = np.random.default_rng(7)
    zero, scale = np.uint8(128), np.float32(0.03)
    constants = {
        "sx": np.array(scale),
        "zx": np.array(zero),
        "sw": np.full(16, 0.02, np.float32),
        "zw": np.zeros(16, np.int8),
        "w": rng.integers(-100, 100, (16, 3, 3, 3)).astype(np.int8),
        "b": rng.integers(-2000, 2000, 16).astype(np.int32),
        "sb": np.full(16, scale * np.float32(0.02), np.float32),
        "zb": np.zeros(16, np.int32),
        "sh": np.array(np.float32(0.1)),
        "zh": np.array(np.uint8(0)),
        "v": rng.normal(size=(4, 16)).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="xd"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], name="wd", axis=0),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["bd"], name="bd", axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["h", "sh", "zh"], ["hq"], name="hq"),
        helper.make_node("DequantizeLinear", ["hq", "sh", "zh"], ["hd"], name="hd"),
        helper.make_node("GlobalAveragePool", ["hd"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="head", transB=1),
    ]
    return _save(path, nodes, constants, FREE_BATCH)


def symmetric_model(path: Path) -> Path:
    """The same net as TensorRT wants it: s8 activations and weights, zero point 0, float bias, Q before the Conv."""
    rng = np.random.default_rng(7)
    constants = {
        "sx": np.array(np.float32(0.03)),
        "zx": np.array(np.int8(0)),
        "sw": np.full(16, 0.02, np.float32),
        "zw": np.zeros(16, np.int8),
        "w": rng.integers(-100, 100, (16, 3, 3, 3)).astype(np.int8),
        "b": rng.normal(size=16).astype(np.float32),
        "v": rng.normal(size=(4, 16)).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="xd"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], name="wd", axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="head", transB=1),
    ]
    return _save(path, nodes, constants, FREE_BATCH)


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Paths of the models, by precision; int8 in the dialect of ONNX Runtime and in that of TensorRT."""
    return {
        "fp32": float_model(tmp_path / "float.onnx"),
        "int8": int8_model(tmp_path / "int8.onnx"),
        "int8-symmetric": symmetric_model(tmp_path / "symmetric.onnx"),
    }


@pytest.fixture
def samples() -> np.ndarray:
    """Five samples, (5, 3, 8, 8)."""
    return np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def wide_free_model(tmp_path: Path) -> Path:
    """The float model with a free width, which an engine must refuse."""
    return float_model(tmp_path / "free.onnx", ["batch", 3, 8, "width"])
