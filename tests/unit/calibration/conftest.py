"""Small ONNX models for the calibration tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FLOAT = TensorProto.FLOAT


def build(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, object],
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Mapping[str, Sequence[int | str]] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    """A checked model; inputs default to x (batch, 3, 8, 8), outputs to y (batch, 10)."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (inputs or {"x": ["batch", 3, 8, 8]}).items()],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (outputs or {"y": ["batch", 10]}).items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def residual_parts(seed: int = 0) -> tuple[list[onnx.NodeProto], dict[str, object]]:
    """Nodes and constants of a residual net with a padded shortcut, like a CIFAR ResNet."""
    rng = np.random.default_rng(seed)

    def kernel(out: int, inner: int, size: int) -> NDArray[np.float32]:
        return (rng.standard_normal((out, inner, size, size)) / np.sqrt(inner * size * size)).astype(np.float32)

    constants = {
        "stem.weight": kernel(8, 3, 3),
        "stem.bias": rng.standard_normal(8).astype(np.float32) * 0.1,
        "block.conv1.weight": kernel(16, 8, 3),
        "block.conv1.bias": rng.standard_normal(16).astype(np.float32) * 0.1,
        "block.conv2.weight": kernel(16, 16, 3),
        "block.conv2.bias": rng.standard_normal(16).astype(np.float32) * 0.1,
        "head.weight": rng.standard_normal((10, 16)).astype(np.float32) * 0.3,
        "head.bias": rng.standard_normal(10).astype(np.float32) * 0.1,
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([2**60, 2**60], np.int64),
        "axes": np.array([2, 3], np.int64),
        "steps": np.array([2, 2], np.int64),
        "pads": np.array([0, 4, 0, 0, 0, 4, 0, 0], np.int64),
        "shape": np.array([-1, 16], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node(
            "Conv",
            ["b", "block.conv1.weight", "block.conv1.bias"],
            ["c"],
            "conv1",
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        ),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"], "clip"),
        helper.make_node("Conv", ["d", "block.conv2.weight", "block.conv2.bias"], ["e"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Slice", ["b", "starts", "ends", "axes", "steps"], ["f"], "slice"),
        helper.make_node("Pad", ["f", "pads"], ["g"], "pad"),
        helper.make_node("Add", ["e", "g"], ["h"], "add"),
        helper.make_node("Relu", ["h"], ["i"], "relu_out"),
        helper.make_node("ReduceMean", ["i", "axes"], ["j"], "mean", keepdims=1),
        helper.make_node("Reshape", ["j", "shape"], ["k"], "reshape"),
        helper.make_node("Gemm", ["k", "head.weight", "head.bias"], ["y"], "head", transB=1),
    ]
    constants |= {"zero": np.float32(0.0), "six": np.float32(6.0)}
    return nodes, constants


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    """The residual net on disk."""
    nodes, constants = residual_parts()
    path = tmp_path / "net.onnx"
    path.write_bytes(build(nodes, constants).SerializeToString())
    return path


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Builds a model from nodes and constants and returns its path."""

    def _save(nodes: list[onnx.NodeProto], constants: Mapping[str, object], **options: object) -> Path:
        path = tmp_path / "built.onnx"
        path.write_bytes(build(nodes, constants, **options).SerializeToString())
        return path

    return _save


@pytest.fixture
def residual_blocks(save: Callable[..., Path]) -> Path:
    """A stem and two residual blocks of 8 channels."""
    rng = np.random.default_rng(0)
    constants = {f"w{i}": rng.normal(size=(8, 8 if i else 3, 3, 3)).astype(np.float32) / 9 for i in range(3)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r0"], "relu0"),
    ]
    for i in (1, 2):
        nodes.append(helper.make_node("Conv", [f"r{i - 1}", f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Add", [f"c{i}", f"r{i - 1}"], [f"s{i}"], f"add{i}"))
        nodes.append(helper.make_node("Relu", [f"s{i}"], [f"r{i}"], f"relu{i}"))
    return save(nodes, constants, outputs={"r2": ["batch", 8, 8, 8]})


@pytest.fixture
def images() -> np.ndarray:
    """Sixty samples for it."""
    return np.random.default_rng(1).standard_normal((60, 3, 8, 8)).astype(np.float32)


SATURATES: Final = machine.arch() == "x86_64" and not machine.cpu_features() & {"avx512_vnni", "avx_vnni"}
"""Whether this CPU has no exact 8-bit products (VNNI), so that ONNX Runtime's own kernels saturate."""

_AS_IT_IS: Final = ("test_saturation.py", "test_shared_weights_are_stored_once_for_each_axis")


@pytest.fixture(autouse=True)
def _exact_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that saturates, the runtime is told to be exact: what these tests judge is our Q/DQ.

    What saturation does, and the 7-bit dialect that avoids it, have tests of their own. The runtime's exact mode fails
    on a weight that is stored once and used twice.
    """
    real = onnxruntime.SessionOptions

    def exact() -> onnxruntime.SessionOptions:
        options = real()
        options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    if request.node.name == "test_weight_used_twice" and SATURATES:
        pytest.skip("this CPU has no VNNI, and the runtime's exact mode fails on a shared weight")
    if SATURATES and not {request.node.path.name, request.node.name} & {*_AS_IT_IS}:
        monkeypatch.setattr(onnxruntime, "SessionOptions", exact)
