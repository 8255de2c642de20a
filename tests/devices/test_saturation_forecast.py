"""The forecast for CPUs without VNNI against such a CPU: every bit of the outputs, and the verdict."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.dynamic import quantize_dynamic_model
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from calibration.saturation import forecast, saturating_outputs
from targets.engines import engine
from targets.profile import load_profile
from targets.scheme import scheme

pytestmark = pytest.mark.devices

SAMPLES = 16


@pytest.fixture
def samples() -> np.ndarray:
    """Samples whose values all lie near the top of the quantised range, (16, 3, 16, 16)."""
    return np.random.default_rng(1).uniform(0.9, 1.0, (SAMPLES, 3, 16, 16)).astype(np.float32)


def quantised(model: Path, samples: np.ndarray, dialect: str, out: Path) -> Path:
    table = collect(model, CalibrationSet({"x": samples}, batch_size=16), threads=1)
    quantize_model(model, table, scheme(dialect), "minmax", out)
    return out


def really(emulated: ModuleType, model: Path, samples: np.ndarray, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Outputs with and without VNNI."""
    built = engine("onnxruntime").build(model, load_profile("x86-64-avx2"), scratch / "engine", precision="int8")
    devices = (emulated.here(), emulated.without_vnni())
    return tuple(emulated.infer(device, built.folder, samples, scratch, batch=SAMPLES)["y"] for device in devices)


def test_the_saturating_net_is_flagged(emulated: ModuleType, samples: np.ndarray, tmp_path: Path) -> None:
    """The net that saturates is named, and its outputs are forecast bit for bit, with VNNI and without."""
    emulated.here()
    model = quantised(emulated.loud_net(tmp_path / "net.onnx"), samples, "ort-x86", tmp_path / "q.onnx")
    found = forecast(model, [{"x": samples}], threads=1)
    assert "loud" in found.saturating
    assert not found.safe
    assert found.output_snr_db < 15
    exact, saturated = saturating_outputs(model, [{"x": samples}], threads=1)
    with_vnni, without = really(emulated, model, samples, tmp_path)
    assert emulated.bits_different({"y": exact["y"]}, {"y": with_vnni}) == (SAMPLES * 10, 0)
    assert emulated.bits_different({"y": saturated["y"]}, {"y": without}) == (SAMPLES * 10, 0)
    assert np.abs(with_vnni - without).max() > 0.1 * np.ptp(with_vnni)


def test_seven_bits_pass_the_forecast(emulated: ModuleType, samples: np.ndarray, tmp_path: Path) -> None:
    """The same net with 7-bit weights is safe, and computes the same there."""
    emulated.here()
    model = quantised(emulated.loud_net(tmp_path / "net.onnx"), samples, "ort-x86-avx2", tmp_path / "q.onnx")
    found = forecast(model, [{"x": samples}], threads=1)
    assert found.safe
    assert (found.saturating, found.output_snr_db, found.agreement) == ((), 200.0, 1.0)
    with_vnni, without = really(emulated, model, samples, tmp_path)
    np.testing.assert_array_equal(with_vnni, without)


def test_a_residual_net_bit_for_bit(emulated: ModuleType, tmp_path: Path) -> None:
    """Where saturation is rare and passes through sums, pools, a depthwise convolution: no bit is forecast wrongly."""
    emulated.here()
    samples = np.random.default_rng(5).normal(size=(SAMPLES, 3, 16, 16)).astype(np.float32)
    model = quantised(emulated.residual_net(tmp_path / "net.onnx", 5), samples, "ort-x86", tmp_path / "q.onnx")
    exact, saturated = saturating_outputs(model, [{"x": samples}], threads=1)
    with_vnni, without = really(emulated, model, samples, tmp_path)
    assert (with_vnni != without).any()
    assert emulated.bits_different({"y": exact["y"]}, {"y": with_vnni}) == (SAMPLES * 10, 0)
    assert emulated.bits_different({"y": saturated["y"]}, {"y": without}) == (SAMPLES * 10, 0)


CONVOLUTIONS = {
    "odd channels": ((7, 5, 3, 3), {"pads": [1, 0, 1, 2]}),
    "stride and dilation": ((32, 16, 3, 3), {"strides": [2, 2], "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    "same": ((16, 8, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "groups": ((24, 3, 3, 3), {"group": 4}),
    "depthwise": ((16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}),
    "depthwise, two each": ((12, 1, 3, 3), {"group": 6}),
    "pointwise": ((48, 64, 1, 1), {}),
    "one dimension": ((16, 10, 5), {"pads": [2, 2]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_of_all_kinds(emulated: ModuleType, tmp_path: Path, case: str) -> None:
    """Every kernel of the runtime pairs products as the forecast does."""
    emulated.here()
    shape, attributes = CONVOLUTIONS[case]
    rng = np.random.default_rng(0)
    channels = shape[1] * int(attributes.get("group", 1))
    size = [channels, *[11] * (len(shape) - 2)]
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(3), "w": np.clip(rng.normal(40, 50, shape), -127, 127).astype(np.int8),
        "ws": rng.uniform(0.01, 0.02, shape[0]).astype(np.float32), "wz": np.zeros(shape[0], np.int8),
        "b": rng.integers(-999, 999, shape[0]).astype(np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"], "data"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["k"], "kernel", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["o"], "offset", axis=0),
        helper.make_node("Conv", ["d", "k", "o"], ["a"], "conv", **attributes),
        helper.make_node("QuantizeLinear", ["a", "ys", "yz"], ["r"], "requantise"),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"], "out"),
    ]
    constants |= {"ys": np.float32(0.5 + np.prod(shape[1:]) / 200), "yz": np.uint8(20)}
    constants["bs"] = constants["ws"] * np.float32(0.02)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", shape[0], *[None] * (len(shape) - 2)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "q.onnx")
    samples = rng.uniform(3, 5, (SAMPLES, *size)).astype(np.float32)
    exact, saturated = saturating_outputs(tmp_path / "q.onnx", [{"x": samples}], threads=1)
    with_vnni, without = really(emulated, tmp_path / "q.onnx", samples, tmp_path)
    np.testing.assert_array_equal(exact["y"], with_vnni)
    np.testing.assert_array_equal(saturated["y"], without)
    assert (with_vnni != without).any() == (case != "depthwise")


@pytest.mark.parametrize("inner", [37, 130])
def test_dynamic_products(emulated: ModuleType, tmp_path: Path, inner: int) -> None:
    """Products with dynamic int8 are forecast bit for bit."""
    emulated.here()
    rng = np.random.default_rng(0)
    weight = rng.uniform(-0.2, 1.0, (inner, 33)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 33])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(rng.normal(size=33).astype(np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    quantize_dynamic_model(model, tmp_path / "d.onnx", min_elements=0)
    samples = rng.uniform(-0.1, 1, (SAMPLES, inner)).astype(np.float32)
    exact, saturated = saturating_outputs(tmp_path / "d.onnx", [{"x": samples}], threads=1)
    (masked,) = _outputs(emulated, tmp_path / "d.onnx", samples, tmp_path)
    assert (exact["y"] != masked).any()
    np.testing.assert_allclose(saturated["y"], masked, rtol=2e-6, atol=2e-6)


def _outputs(emulated: ModuleType, model: Path, samples: np.ndarray, scratch: Path) -> list[np.ndarray]:
    """Outputs of a file without VNNI, in a plain process under the mask."""
    import os
    import subprocess
    import sys

    program = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "np.save(sys.argv[3], session.run(None, {'x': np.load(sys.argv[2])})[0])\n"
    )
    np.save(scratch / "x.npy", samples)
    library = emulated.part("mask") / "cpuidmask.so"
    environment = {**os.environ, "LD_PRELOAD": str(library), "EDGEPRESS_CPU": "avx2", "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", program, str(model), str(scratch / "x.npy"), str(scratch / "y.npy")]
    subprocess.run(command, env=environment, check=True)
    return [np.load(scratch / "y.npy")]
