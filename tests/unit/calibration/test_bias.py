"""Promises of bias correction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration.bias import correct_bias
from calibration.collect import collect
from calibration.qdq import quantize_model
from calibration.quantized import read_quantized
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from targets.scheme import QuantScheme

X86 = scheme("ort-x86")
COARSE = replace(X86, name="coarse", per_channel_weights=False, weight_bits=7)


def made(path: Path, images: NDArray[np.float32], tmp_path: Path, dialect: QuantScheme = X86) -> Path:
    samples = CalibrationSet({"x": images}, batch_size=16)
    out = tmp_path / "int8.onnx"
    quantize_model(path, collect(path, samples, threads=1), dialect, "minmax", out)
    return out


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return Session(path.read_bytes(), threads=1, optimize=False).run(None, {"x": images})[0]


def noise(path: Path, reference: Path, images: NDArray[np.float32]) -> float:
    return float(np.square(run(path, images) - run(reference, images)).sum())


def correct(
    float_model: Path,
    quantised: Path,
    images: NDArray[np.float32],
    tmp_path: Path,
    name: str = "out.onnx",
    **options: int,
) -> tuple[Path, object]:
    out = tmp_path / name
    samples = CalibrationSet({"x": images}, batch_size=16)
    return out, correct_bias(float_model, quantised, samples, out, threads=1, **options)


@pytest.mark.parametrize("dialect", [X86, scheme("trt")], ids=["int32", "float"])
def test_an_injected_error_is_found(
    residual: Path, images: NDArray[np.float32], tmp_path: Path, dialect: QuantScheme
) -> None:
    """A bias that was shifted by half the spread of its layer comes back to within a tenth of that, int32 or float."""
    path = made(residual, images, tmp_path, dialect)
    graph = read_quantized(onnx.load(path))
    right = graph.bias_values("conv2")
    shift = np.linspace(-0.5, 0.5, 16)
    graph.write_bias("conv2", right + shift)
    graph.save(path)
    wrong = noise(path, residual, images)
    out, report = correct(residual, path, images, tmp_path)
    found = read_quantized(onnx.load(out)).bias_values("conv2")
    assert np.abs(found - right).max() < 0.05
    assert noise(out, residual, images) < 0.1 * wrong
    assert report.after_db > report.before_db + 10
    assert next(layer for layer in report.layers if layer.node == "conv2").kept


@pytest.mark.parametrize(
    "dialect", [X86, COARSE, scheme("trt"), scheme("qnn-a16")], ids=["int8", "coarse", "trt", "qnn"]
)
def test_it_is_never_worse(residual: Path, images: NDArray[np.float32], tmp_path: Path, dialect: QuantScheme) -> None:
    """On the samples used the outputs' error never rises, and the report says so; on others of the kind, hardly."""
    path = made(residual, images, tmp_path, dialect)
    out, report = correct(residual, path, images, tmp_path)
    assert noise(out, residual, images) <= noise(path, residual, images)
    assert report.after_db >= report.before_db
    other = np.random.default_rng(9).standard_normal((200, 3, 8, 8)).astype(np.float32)
    assert noise(out, residual, other) < 1.05 * noise(path, residual, other)


def test_only_biases_change(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Nodes, weights, scales and zero points stay as they were, and what is not kept has its old bias."""
    path = made(residual, images, tmp_path, COARSE)
    out, report = correct(residual, path, images, tmp_path)
    before, after = onnx.load(path), onnx.load(out)
    kept = {f"{layer.node}__bias__quantized" for layer in report.layers if layer.kept}
    changed = {
        old.name
        for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True)
        if old.SerializeToString() != new.SerializeToString()
    }
    assert changed <= kept
    assert changed
    assert [*before.graph.node] == [*after.graph.node]


def test_the_same_arguments_give_the_same_bytes(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Nothing of a clock goes into the file."""
    path = made(residual, images, tmp_path, COARSE)
    one, _ = correct(residual, path, images, tmp_path, "one.onnx")
    other, _ = correct(residual, path, images, tmp_path, "other.onnx")
    assert one.read_bytes() == other.read_bytes()


def test_joined_steps_run_less_often(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """With one step allowed the quantised model runs twice (measured, judged), and the result is still no worse."""
    path = made(residual, images, tmp_path, COARSE)
    out, report = correct(residual, path, images, tmp_path, runs=1)
    assert report.runs == 2
    assert noise(out, residual, images) <= noise(path, residual, images)


@pytest.mark.parametrize("dialect", [COARSE, scheme("trt")], ids=["int32", "float"])
def test_a_layer_without_bias_gets_one(
    save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path, dialect: QuantScheme
) -> None:
    """A convolution without bias is given one where that helps; the runtime still makes one integer operator of it."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "bare"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "v"], ["c"], "second"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["y"], "flat"),
    ]
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "v": (rng.standard_normal((10, 6, 3, 3)) * np.exp(rng.normal(0, 1, (10, 1, 1, 1)))).astype(np.float32),
    }
    shifted = np.abs(images)
    path = made(save(nodes, weights), shifted, tmp_path, dialect)
    out, report = correct(tmp_path / "built.onnx", path, shifted, tmp_path)
    graph = read_quantized(onnx.load(out))
    kept = {layer.node for layer in report.layers if layer.kept}
    assert kept
    assert set(graph.biases) == kept
    assert all((bias.scale is not None) == (dialect is COARSE) for bias in graph.biases.values())
    assert noise(out, tmp_path / "built.onnx", shifted) < noise(path, tmp_path / "built.onnx", shifted)
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_another_model_is_refused(
    residual: Path, save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """A float model that has none of the quantised nodes is named as such."""
    weights = {"w": np.ones((10, 3), np.float32)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "w"], ["y"], "other", transB=1),
    ]
    path = made(residual, images, tmp_path)
    with pytest.raises(InputError, match="no node"):
        correct(save(nodes, weights), path, images, tmp_path)


def test_bad_arguments_are_refused(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """No steps, samples of the wrong shape, and a file that is not quantised are errors."""
    path = made(residual, images, tmp_path)
    with pytest.raises(InputError, match="runs"):
        correct(residual, path, images, tmp_path, runs=0)
    with pytest.raises(InputError, match="samples 'x'"):
        correct(residual, path, images[:, :2], tmp_path)
    with pytest.raises(InputError, match="no quantised weight"):
        correct(residual, residual, images, tmp_path)
