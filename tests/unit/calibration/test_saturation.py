"""Promises of the forecast for CPUs that add products in 16-bit pairs; the bits themselves: tests/devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.dynamic import quantize_dynamic_model
from calibration.integerops import add_up, dynamic_affine, exact_sums, possible_share
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from calibration.saturation import forecast, saturating_outputs
from calibration.session import Session
from targets.errors import InputError
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def vpmaddubsw(left: NDArray[np.uint8], weight: NDArray[np.int8]) -> tuple[NDArray[np.int64], int]:
    """The instruction, value by value: sums with 16-bit pairs, and how many pairs did not fit."""
    sums, over = np.zeros((len(left), weight.shape[1]), np.int64), 0
    for row in range(len(left)):
        for column in range(weight.shape[1]):
            products = [int(a) * int(b) for a, b in zip(left[row], weight[:, column], strict=True)]
            for pair in range(0, len(products), 2):
                total = sum(products[pair : pair + 2])
                over += not -32768 <= total <= 32767
                sums[row, column] += min(max(total, -32768), 32767)
    return sums, over


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 5),
    inner=st.integers(1, 9),
    columns=st.integers(1, 4),
    bits=st.sampled_from([7, 8]),
)
@settings(max_examples=40, deadline=None)
def test_sums_are_those_of_the_instruction(seed: int, rows: int, inner: int, columns: int, bits: int) -> None:
    """Both sums equal those computed one value at a time, odd lengths included; 7 bits never saturate."""
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1) - 1
    left = rng.choice([0, 3, 128, 250, 255], size=(rows, inner)).astype(np.uint8)
    weight = rng.choice([-limit, -limit // 2, 0, 5, limit], size=(inner, columns)).astype(np.int8)
    sums = add_up(left, weight)
    wanted, over = vpmaddubsw(left, weight)
    np.testing.assert_array_equal(sums.exact, left.astype(np.int64) @ weight.astype(np.int64))
    np.testing.assert_array_equal(sums.saturated, wanted)
    assert (sums.hit, sums.pairs) == (over, rows * columns * -(-inner // 2))
    assert bits == 8 or (sums.hit == 0 and possible_share(weight) == 0.0)


def test_exact_sums_are_exact_beyond_float32() -> None:
    """Sums that float32 cannot hold are still exact."""
    left, weight = np.full((2, 1001), 255, np.uint8), np.full((1001, 3), 127, np.int8)
    weight[0] = 126
    assert (exact_sums(left, weight) == 255 * (127 * 1000 + 126)).all()


def test_dynamic_range_is_the_operators() -> None:
    """Scale, zero point and integers equal those of DynamicQuantizeLinear in the runtime."""
    rng = np.random.default_rng(0)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    outputs = [
        helper.make_tensor_value_info(n, t, None)
        for n, t in (("q", TensorProto.UINT8), ("s", TensorProto.FLOAT), ("z", TensorProto.UINT8))
    ]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    session = Session(model.SerializeToString(), threads=1, optimize=False)
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        data = rng.uniform(low, high, 64).astype(np.float32)
        integers, scale, zero = session.run(None, {"x": data})
        found_scale, found_zero, found = dynamic_affine(data)
        assert (float(scale), int(zero)) == (float(found_scale), found_zero) or high == low
        np.testing.assert_array_equal(found, integers)


def quantised(path: Path, images: NDArray[np.float32], out: Path, dialect: str) -> Path:
    table = collect(path, CalibrationSet({"x": images}, batch_size=16), threads=1)
    quantize_model(path, table, scheme(dialect), "minmax", out)
    return out


def test_exact_outputs_are_the_runtimes(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """With exact sums, the stepwise run gives the runtime's own outputs on this machine, where it does not saturate."""
    path = quantised(residual, images, tmp_path / "q.onnx", "ort-x86-avx2")
    exact, saturated = saturating_outputs(path, CalibrationSet({"x": images}, batch_size=16), threads=1)
    wanted = Session(path, threads=1, optimize=True).run(None, {"x": images})[0]
    np.testing.assert_array_equal(exact["y"], wanted)
    np.testing.assert_array_equal(saturated["y"], wanted)


def test_seven_bits_pass(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """A net with 7-bit weights is safe, whatever the input; its layers are named all the same."""
    path = quantised(residual, images, tmp_path / "q.onnx", "ort-x86-avx2")
    found = forecast(path, [{"x": images}], threads=1)
    assert found.safe
    assert found.saturating == ()
    assert (found.output_snr_db, found.agreement, found.samples) == (200.0, 1.0, len(images))
    assert [layer.node for layer in found.layers] == ["stem", "conv1", "conv2", "head"]


def test_a_loud_layer_is_named(save: Callable[..., Path], tmp_path: Path) -> None:
    """Large weights of one sign and inputs near the top saturate: the layer, its share and the lost dB are reported."""
    rng = np.random.default_rng(0)
    constants = {
        "loud.weight": rng.uniform(0.8, 1.0, (8, 3, 3, 3)).astype(np.float32),
        "quiet.weight": (rng.normal(size=(10, 8)) * 0.1).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "loud.weight"], ["a"], "loud", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["c"], "flatten"),
        helper.make_node("Gemm", ["c", "quiet.weight"], ["y"], "quiet", transB=1),
    ]
    samples = rng.uniform(0.9, 1.0, (12, 3, 8, 8)).astype(np.float32)
    path = quantised(save(nodes, constants), samples, tmp_path / "q.onnx", "ort-x86")
    found = forecast(path, CalibrationSet({"x": samples}, batch_size=5), threads=1)
    loud = found.layers[0]
    assert (loud.node, loud.op, loud.saturates) == ("loud", "QLinearConv", True)
    assert loud.pairs_ratio is not None
    assert loud.pairs_ratio > 0.5
    assert "loud" in found.saturating
    assert not found.safe
    assert found.output_snr_db < 15.0


def test_dynamic_int8_is_forecast(save: Callable[..., Path], tmp_path: Path) -> None:
    """A model with dynamic int8 is followed too; an LSTM inside gets a bound."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.uniform(0.5, 1.0, (64, 10)).astype(np.float32),
        "lw": rng.uniform(0.5, 1.0, (1, 64, 8)).astype(np.float32),
        "lr": rng.uniform(0.5, 1.0, (1, 64, 16)).astype(np.float32),
        "shape": np.array([-1, 64], np.int64),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "lw", "lr"], ["a"], "cell", hidden_size=16),
        helper.make_node("Reshape", ["a", "shape"], ["b"], "reshape"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "product"),
    ]
    source = save(nodes, constants, inputs={"x": [4, "batch", 8]}, outputs={"y": ["n", 10]}, opset=17)
    quantize_dynamic_model(source, tmp_path / "dynamic.onnx", min_elements=0)
    feed = {"x": rng.uniform(0.5, 1, (4, 3, 8)).astype(np.float32)}
    found = {layer.op: layer for layer in forecast(tmp_path / "dynamic.onnx", [feed], threads=1).layers}
    assert found["DynamicQuantizeLSTM"].saturates is None
    assert found["DynamicQuantizeLSTM"].possible_ratio > 0.9
    assert found["DynamicQuantizeMatMul"].saturates is True


def test_signed_inputs_never_saturate(tmp_path: Path) -> None:
    """Kernels for signed inputs widen to 16 bits first: no pair is limited."""
    constants = {"w": np.full((8, 4), 127, np.int8)}
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["a"], "product"),
        helper.make_node("Cast", ["a"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.INT8, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8), tmp_path / "m.onnx")
    found = forecast(tmp_path / "m.onnx", [{"x": np.full((3, 8), 127, np.int8)}], threads=1)
    assert found.safe
    assert found.layers[0].saturates is False


def test_a_float_model_is_refused(residual: Path, images: NDArray[np.float32]) -> None:
    """A model that multiplies nothing in integers is an error, and so are no samples."""
    with pytest.raises(InputError, match="multiplies nothing in integers"):
        forecast(residual, [{"x": images}], threads=1)


def test_no_samples_are_refused(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """A forecast of nothing is an error."""
    path = quantised(residual, images, tmp_path / "q.onnx", "ort-x86")
    with pytest.raises(InputError, match="0 samples"):
        forecast(path, [], threads=1)
