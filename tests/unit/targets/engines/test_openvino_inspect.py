"""What is read back of an OpenVINO engine: precisions, arithmetic, names of the ONNX file, and what nobody can see."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from targets import machine
from targets.engines import engine, openvino_inspect
from targets.engines.openvino_inspect import Layer
from targets.engines.subnormals import subnormals

if TYPE_CHECKING:
    from targets.engines.base import Inspection
    from targets.options import Precision


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = _load("openvino_models")
broken = _load("broken_qdq")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def inspect(model: Path, out: Path, precision: Precision = "fp32", target: str = "host") -> Inspection:
    built = engine("openvino").build(model, small.profile(target), out, precision=precision)
    return engine("openvino").inspect(built)


CASES: dict[str, tuple[onnx.NodeProto, dict[str, list[int | str]], tuple[int, ...], int]] = {
    "plain": (
        helper.make_node("Conv", ["x", "w"], ["y"], name="n"),
        {"x": ["batch", 8, 10, 10], "y": ["batch", 16, 8, 8]}, (16, 8, 3, 3), 16 * 8 * 8 * 8 * 9,
    ),
    "depthwise": (
        helper.make_node("Conv", ["x", "w"], ["y"], name="n", group=8),
        {"x": ["batch", 8, 10, 10], "y": ["batch", 8, 8, 8]}, (8, 1, 3, 3), 8 * 8 * 8 * 9,
    ),
    "grouped": (
        helper.make_node("Conv", ["x", "w"], ["y"], name="n", group=2),
        {"x": ["batch", 8, 10, 10], "y": ["batch", 16, 8, 8]}, (16, 4, 3, 3), 16 * 8 * 8 * 4 * 9,
    ),
    "one-dimensional": (
        helper.make_node("Conv", ["x", "w"], ["y"], name="n"),
        {"x": ["batch", 8, 20], "y": ["batch", 16, 18]}, (16, 8, 3), 16 * 18 * 8 * 3,
    ),
    "transposed": (
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="n", strides=[2, 2]),
        {"x": ["batch", 8, 5, 5], "y": ["batch", 16, 11, 11]}, (8, 16, 3, 3), 8 * 5 * 5 * 16 * 9,
    ),
    "product": (
        helper.make_node("MatMul", ["x", "w"], ["y"], name="n"),
        {"x": ["batch", 7, 12], "y": ["batch", 7, 5]}, (12, 5), 7 * 12 * 5,
    ),
    "gemm": (
        helper.make_node("Gemm", ["x", "w"], ["y"], name="n", transB=1),
        {"x": ["batch", 12], "y": ["batch", 5]}, (5, 12), 12 * 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_multiplications_are_those_of_the_definition(tmp_path: Path, case: str) -> None:
    """Multiply-accumulates of one sample are what the operator's definition says, counted by hand."""
    node, shapes, weight, wanted = CASES[case]
    seen = inspect(small.save(tmp_path / "m.onnx", [node], shapes, w=small.normal(0, *weight)), tmp_path / "e")
    assert seen.compute == {"total": 1, "int8": 0, "macs": wanted, "int8_macs": 0}
    assert seen.float_compute == ("n",)
    assert seen.precisions == {"fp32": 1}


def test_a_product_of_two_activations_is_counted(tmp_path: Path) -> None:
    """Attention's product of queries and keys has no weight, and counts all the same."""
    node = helper.make_node("MatMul", ["q", "k"], ["y"], name="scores")
    shapes: dict[str, list[int | str]] = {"q": ["batch", 2, 5, 7], "k": ["batch", 2, 7, 3], "y": ["batch", 2, 5, 3]}
    assert inspect(small.save(tmp_path / "m.onnx", [node], shapes), tmp_path / "e").compute["macs"] == 2 * 5 * 7 * 3


def test_nodes_without_a_name_are_called_by_their_output(tmp_path: Path) -> None:
    """What stayed float is named as in the ONNX file: by node name, or by output where a node has no name."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["/stem/hidden"]),
        helper.make_node("Relu", ["/stem/hidden"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], name="/last/conv"),
    ]
    shapes: dict[str, list[int | str]] = {"x": ["batch", 3, 8, 8], "y": ["batch", 4, 4, 4]}
    model = small.save(tmp_path / "m.onnx", nodes, shapes, w=small.normal(0, 8, 3, 3, 3), v=small.normal(1, 4, 8, 3, 3))
    assert inspect(model, tmp_path / "e").float_compute == ("/stem/hidden", "/last/conv")


def test_bf16_that_was_asked_for_runs_in_bf16(tmp_path: Path) -> None:
    """bf16 asked for is what convolution and product run in; nothing is a fallback."""
    if not small.computes_in("BF16"):
        pytest.skip("this CPU does not compute in bf16")
    seen = inspect(small.tiny(tmp_path / "m.onnx"), tmp_path / "e", "bf16")
    assert (seen.actual_precision, dict(seen.precisions), seen.fallbacks) == ("bf16", {"bf16": 2}, ())


def test_another_architecture_is_not_guessed_at(tmp_path: Path) -> None:
    """Kernels of another architecture are chosen there: nothing is claimed of them, and the build says why."""
    other = {"x86_64": "raspberry-pi-5", "aarch64": "x86-64-avx2"}[machine.arch()]
    seen = inspect(small.tiny(tmp_path / "m.onnx"), tmp_path / "e", target=other)
    assert seen.actual_precision == "unknown"
    assert "chooses kernels where it runs" in seen.inspected
    assert any("nobody has seen" in line for line in seen.warnings)


def test_int8_that_nobody_can_see_is_counted_in_the_file() -> None:
    """Where the device is elsewhere, int8 nodes are those that read integers in the graph."""
    build = small.described("int8", device="NPU")
    seen = openvino_inspect._by_graph(broken.good(), build, "no NPU")
    assert (seen.compute["total"], seen.compute["int8"], seen.inspected) == (1, 1, "no NPU")


def test_reference_kernels_and_other_precisions_are_fallbacks() -> None:
    """A product in a reference kernel and one in another precision are listed by name, the slow one with a warning."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [f"o{i}"], name=f"m{i}") for i in range(3)], "g", [], []
        )
    )

    def layer(index: int, kernel: str, precision: str) -> Layer:
        shapes = ((1, 4), (5, 4))
        return Layer(
            name=f"m{index}", kind="FullyConnected", kernel=kernel, precision=precision, origins=(f"m{index}",),
            reads=shapes, writes=(1, 5), executed=True,
        )  # fmt: skip

    layers = [layer(0, "brgemm_avx512_I8", "u8"), layer(1, "ref_any_u8", "u8"), layer(2, "gemm_mlas_f32", "f32")]
    seen = openvino_inspect._by_layers(model, small.described("int8"), layers)
    assert seen.fallbacks == ("m1", "m2")
    assert seen.float_compute == ("m2",)
    assert seen.warnings == ("m1 runs in a reference kernel (ref_any_u8)",)
    assert dict(seen.precisions) == {"fp32": 1, "int8": 2}
    assert seen.int8_mac_ratio == pytest.approx(2 / 3, abs=1e-6)


def test_subnormals_are_counted_by_their_bits() -> None:
    """Only numbers strictly between 0 and the smallest normal one count, of either sign; other types never do."""
    smallest = np.finfo(np.float32).smallest_normal
    values = np.array([0, -0.0, smallest, -smallest, smallest / 2, -smallest / 4, 1], np.float32)
    assert subnormals(numpy_helper.from_array(values, "w")) == 2
    assert subnormals(numpy_helper.from_array(values.astype(np.float64), "w")) == 0
