"""Promises of the int8 graph editor."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from calibration.collect import collect
from calibration.pairs import fits
from calibration.qdq import LayerPrecision, quantize_model, snr_db
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.files import sha256_file
from targets.scheme import SCHEMES, QuantScheme, scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

X86 = scheme("ort-x86")


def quantised(
    path: Path, images: NDArray[np.float32], tmp_path: Path, dialect: QuantScheme = X86, method: str = "minmax"
) -> tuple[Path, tuple[LayerPrecision, ...]]:
    table = collect(path, CalibrationSet({"x": images}, batch_size=16), threads=1)
    out = tmp_path / "int8.onnx"
    return out, quantize_model(path, table, dialect, method, out)


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return Session(path.read_bytes(), threads=1, optimize=True).run(None, {"x": images})[0]


def fused(path: Path, tmp_path: Path) -> Counter[str]:
    """Operators of the graph that the runtime really executes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_int8_is_close_to_float(
    residual: Path, images: NDArray[np.float32], tmp_path: Path, name: str, method: str
) -> None:
    """In every scheme and by every method, the output's signal-to-noise ratio is above 25 dB (22 dB with 7 bits)."""
    path, _ = quantised(residual, images, tmp_path, scheme(name), method)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    floor = 22.0 if scheme(name).weight_bits == 7 else 25.0
    assert snr_db(run(residual, images), run(path, images)) > floor


def test_runtime_fuses_everything(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """The runtime turns the whole net into integer operators: one Q at the input, one DQ at the output."""
    path, _ = quantised(residual, images, tmp_path)
    operators = fused(path, tmp_path)
    assert operators["QLinearConv"] == 3
    assert (operators["QLinearAdd"], operators["QLinearGlobalAveragePool"], operators["QGemm"]) == (1, 1, 1)
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (1, 1)
    assert operators.keys().isdisjoint({"Conv", "FusedConv", "Add", "Relu", "Clip", "Gemm", "ReduceMean"})


def test_mean_that_drops_axes_runs_in_int8(
    save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """A mean over height and width that drops them becomes an integer pool and a Flatten between integers."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
        "v": rng.standard_normal((8, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "v"], ["y"]),
    ]
    path = save(nodes, constants)
    out, layers = quantised(path, images, tmp_path)
    assert [layer.op for layer in layers] == ["Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    assert fused(out, tmp_path)["QLinearGlobalAveragePool"] == 1
    assert snr_db(run(path, images), run(out, images)) > 25.0


def test_dense_and_gated_nets(save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path) -> None:
    """Pooling, concatenation, gates and constant operands run in int8 and stay close to float."""
    rng = np.random.default_rng(4)
    constants = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.3,
        "v": rng.standard_normal((4, 8, 1, 1)).astype(np.float32) * 0.5,
        "scale": rng.random((1, 12, 1, 1)).astype(np.float32) + 0.5,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["silu"]),
        helper.make_node("MaxPool", ["silu"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "v"], ["d"]),
        helper.make_node("Concat", ["pooled", "d"], ["joined"], axis=1),
        helper.make_node("Mul", ["joined", "scale"], ["y"]),
    ]
    path = save(nodes, constants, outputs={"y": ["batch", 12, 4, 4]})
    out, layers = quantised(path, images, tmp_path)
    assert {layer.precision for layer in layers} == {"int8"}
    operators = fused(out, tmp_path)
    assert operators.keys().isdisjoint({"Conv", "Sigmoid", "Mul"})
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (1, 1)
    assert snr_db(run(path, images), run(out, images)) > 28.0


def test_branches_read_the_quantised_tensor(
    save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """A subgraph that reads an int8 activation from outside gets its float reading; its own nodes stay float."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    result = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Mul", ["c", "c"], ["r"])], "then", [], [result])
    other = helper.make_graph([helper.make_node("Neg", ["c"], ["r"])], "else", [], [result])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
    ]
    path = save(nodes, {"w": weight, "yes": np.array(True)}, outputs={"y": ["batch", 4, 6, 6]})  # noqa: FBT003
    out, layers = quantised(path, images, tmp_path)
    assert [layer.precision for layer in layers] == ["int8", "float"]
    assert snr_db(run(path, images), run(out, images)) > 28.0


def test_same_arguments_same_bytes(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Quantising twice, also from a copy in another folder, gives the same bytes, and no path is in them."""
    one = quantised(residual, images, tmp_path)[0].read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / "other_name.onnx"
    copy.write_bytes(residual.read_bytes())
    assert quantised(copy, images, elsewhere)[0].read_bytes() == one
    assert str(tmp_path).encode() not in one


def test_stored_numbers_follow_the_scheme(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Weights are symmetric int8, their pairs within 16 bits where asked; biases count s_x * s_w; scales positive."""
    for name, paired in (("ort-x86", False), ("ort-x86-avx2", True)):
        path, _ = quantised(residual, images, tmp_path, scheme(name))
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        weight = stored["block.conv1.weight__conv1__quantized"]
        assert weight.dtype == np.int8
        assert 63 < np.abs(weight.astype(int)).max() <= 127
        assert fits(weight, 0, 1) == paired
        scales = stored["block.conv1.weight__conv1__scale"]
        assert scales.shape == (16,)
        assert stored["conv1__bias__quantized"].dtype == np.int32
        assert stored["conv1__bias__scale"] == pytest.approx(stored["b__scale"] * scales, rel=1e-6)
        assert all(np.all(array > 0) for key, array in stored.items() if key.endswith("__scale"))
        assert not any(np.any(array) for key, array in stored.items() if key.endswith("weight__conv1__zero_point"))


def test_layers_name_modules_and_reasons(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Each node of the float graph is listed with the user's module, its precision and the weight's SNR."""
    _, layers = quantised(residual, images, tmp_path)
    by_node = {layer.node: layer for layer in layers}
    assert len(layers) == 12
    assert by_node["conv1"].module == "block.conv1"
    assert by_node["conv1"].weight_snr_db > 40.0
    assert by_node["add"].weight_snr_db is None
    assert {layer.precision for layer in layers} == {"int8"}


def test_folded_clip_still_clips(save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path) -> None:
    """Dropping a Relu6 leaves its effect: the int8 output lies in [0, 6] and follows the float one."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32) * 2,
        "lo": np.float32(0.0),
        "hi": np.float32(6.0),
    }
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c", "lo", "hi"], ["y"], "clip")]
    path = save(nodes, constants, outputs={"y": ["batch", 4, 6, 6]})
    out, _ = quantised(path, images, tmp_path)
    found = run(out, images)
    assert found.min() == 0.0
    assert found.max() == pytest.approx(6.0)
    assert "Clip" not in {node.op_type for node in onnx.load(out).graph.node}
    assert snr_db(run(path, images), found) > 30.0


def test_dead_tensors_and_channels(save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path) -> None:
    """Zero weights, a constant activation and a dead channel with a bias are quantised to what they compute."""
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[1] = 0.1
    constants = {"w": weight, "b": np.array([0.0, 0.0, 3.0, 0.0], np.float32), "z": np.zeros((2, 4, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Conv", ["c", "z"], ["y"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
    ]
    path = save(nodes, constants, outputs={"y": ["batch", 2, 6, 6], "p": ["batch", 4, 1, 1]})
    out, _ = quantised(path, images, tmp_path)
    zero, pooled = Session(out.read_bytes(), threads=1, optimize=True).run(None, {"x": images})
    assert not zero.any()
    assert pooled[:, 2] == pytest.approx(3.0, rel=0.02)
    assert not pooled[:, 0].any()


def test_float_island_reads_the_right_tensors(
    save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """A float operator in the middle works on what int8 gives, and a graph output in the middle keeps its name."""
    rng = np.random.default_rng(2)
    constants = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "half": np.float32(0.5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "one"),
        helper.make_node("Erf", ["c"], ["e"], "erf"),
        helper.make_node("Mul", ["c", "half"], ["m"], "scaled"),
        helper.make_node("Conv", ["e", "v"], ["y"], "two"),
    ]
    path = save(nodes, constants, outputs={"y": ["batch", 4, 4, 4], "e": ["batch", 4, 6, 6], "m": ["batch", 4, 6, 6]})
    out, layers = quantised(path, images, tmp_path)
    exact = Session(path.read_bytes(), threads=1, optimize=True).run(None, {"x": images})
    found = Session(out.read_bytes(), threads=1, optimize=True).run(None, {"x": images})
    assert all(snr_db(a, b) > 25.0 for a, b in zip(exact, found, strict=True))
    assert [layer.precision for layer in layers] == ["int8", "float", "int8", "int8"]


def test_weight_used_twice(save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path) -> None:
    """Two convolutions that share a weight are both quantised."""
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w"], ["y"], "two"),
    ]
    path = save(nodes, {"w": weight}, outputs={"y": ["batch", 3, 6, 6]})
    out, _ = quantised(path, images, tmp_path)
    assert fused(out, tmp_path)["QLinearConv"] == 2
    assert snr_db(run(path, images), run(out, images)) > 30.0


def test_symmetric_signed_activations(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """A symmetric int8 scheme keeps Relus, float biases and float outputs, and is as close to float."""
    dialect = replace(
        X86,
        activation_dtype="int8",
        activation_symmetric=True,
        bias="float",
        fold_relu=False,
        quantize_graph_output=False,
    )
    path, _ = quantised(residual, images, tmp_path, dialect)
    model = onnx.load(path)
    assert sum(node.op_type in {"Relu", "Clip"} for node in model.graph.node) == 3
    zeros = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("__zero_point")]
    assert not any(zero.any() for zero in zeros)
    assert snr_db(run(residual, images), run(path, images)) > 22.0


def test_wrong_tables_and_models_are_refused(
    residual: Path, save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """A table of another model, a missing range, an unknown method and a model without int8 nodes are errors."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=16), threads=1)
    out = tmp_path / "int8.onnx"
    other = save([helper.make_node("Erf", ["x"], ["y"])], {}, outputs={"y": ["batch", 3, 8, 8]})
    with pytest.raises(InputError, match="another model"):
        quantize_model(other, table, X86, "minmax", out)
    with pytest.raises(InputError, match="no ranges of method 'histogram'"):
        quantize_model(residual, table, X86, "histogram", out)
    with pytest.raises(InputError, match="no range of tensor"):
        quantize_model(residual, replace(table, tensors={"z": {"minmax": (0.0, 1.0)}}), X86, "minmax", out)
    with pytest.raises(InputError, match=r"no node of built\.onnx can run in int8"):
        quantize_model(other, replace(table, model_sha256=sha256_file(other)), X86, "minmax", out)
    assert not out.exists()


def test_nested_concats_are_close_to_float(
    save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """Rectified branches stay rectified when a Concat joins them with a large signed one."""
    rng = np.random.default_rng(5)
    constants = {name: rng.standard_normal((4, 3, 1, 1)).astype(np.float32) for name in ("a.w", "b.w", "c.w")}
    constants["c.w"] *= 9.0
    constants["h.w"] = rng.standard_normal((3, 12, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "a.w"], ["a"]),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Conv", ["x", "b.w"], ["b"]),
        helper.make_node("Relu", ["b"], ["br"]),
        helper.make_node("Concat", ["ar", "br"], ["ab"], axis=1),
        helper.make_node("Conv", ["x", "c.w"], ["c"]),
        helper.make_node("Concat", ["ab", "c"], ["abc"], axis=1),
        helper.make_node("Conv", ["abc", "h.w"], ["y"]),
    ]
    path = save(nodes, constants, outputs={"y": ["batch", 3, 8, 8]})
    out, _ = quantised(path, images, tmp_path)
    assert snr_db(run(path, images), run(out, images)) > 28.0


def test_snr_has_both_ends() -> None:
    """No noise is 200 dB, nothing but noise is -200 dB, equal parts are 0 dB."""
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert snr_db(zeros, zeros) == snr_db(ones, ones) == 200.0
    assert snr_db(zeros, ones) == -200.0
    assert snr_db(ones, 2.0 * ones) == 0.0
