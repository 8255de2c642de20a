"""Promises of what all formats share, and the fact that keeps 16-bit activations from CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.stepwise import as_executed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gemm_with_activations(dtype: type[np.generic]) -> onnx.ModelProto:
    """X -> Q/DQ -> Gemm with int8 weights -> Q/DQ, activations in that type."""
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[np.generic]] = {
        "s": np.array(0.05, np.float32),
        "z": np.array(0, dtype),
        "w": rng.integers(-127, 127, (4, 8)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.zeros(4, np.int32),
        "bs": np.full(4, 5e-4, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "dw", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], "db", axis=0),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["a"], "layer", transB=1),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"], "q2"),
        helper.make_node("DequantizeLinear", ["aq", "s", "z"], ["y"], "dq2"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_no_integer_operator_takes_int16() -> None:
    """The runtime makes an integer product of uint8 activations and a float one of 16-bit ones."""
    executed = {
        dtype: {node.op_type for node in as_executed(gemm_with_activations(dtype)).graph.node}
        for dtype in (np.uint8, np.int16, np.uint16)
    }
    assert "QGemm" in executed[np.uint8]
    for wide in (np.int16, np.uint16):
        assert "Gemm" in executed[wide]
        assert "QGemm" not in executed[wide]
