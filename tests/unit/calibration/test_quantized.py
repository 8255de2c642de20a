"""Reading a Q/DQ file back and writing numbers into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.collect import collect
from calibration.qdq import quantize_model
from calibration.quantized import QuantizedGraph, read_quantized
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def quantised(residual: Path, images: np.ndarray, tmp_path: Path) -> Path:
    """The residual net as an ort-x86 file."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=20), threads=1)
    out = tmp_path / "quantised.onnx"
    quantize_model(residual, table, scheme("ort-x86"), "mse", out)
    return out


def graph_of(path: Path) -> QuantizedGraph:
    return read_quantized(open_onnx(path))


def test_all_parts_are_found(quantised: Path) -> None:
    """Promise: every weight, bias and activation is named, with axis, float source and scale group."""
    graph = graph_of(quantised)
    assert {node: weight.source for node, weight in graph.weights.items()} == {
        "stem": "stem.weight",
        "conv1": "block.conv1.weight",
        "conv2": "block.conv2.weight",
        "head": "head.weight",
    }
    assert {weight.axis for weight in graph.weights.values()} == {0}
    assert {weight.limit for weight in graph.weights.values()} == {127}
    assert set(graph.biases) == set(graph.weights)
    assert {"x", "b", "d", "e", "g", "i", "y"} <= set(graph.activations)
    assert set(graph.groups[graph.activations["b"].scale]) >= {"b", "g"}


def test_values_are_those_of_the_float_model(quantised: Path, residual: Path) -> None:
    """Promise: weights and biases read back differ from the float model's by at most half a step."""
    graph = graph_of(quantised)
    exact = {t.name: numpy_helper.to_array(t) for t in open_onnx(residual).graph.initializer}
    for node, weight in graph.weights.items():
        steps = graph.array(weight.scale).astype(np.float64).reshape(-1, *[1] * (exact[weight.source].ndim - 1))
        assert (np.abs(graph.weight_values(node) - exact[weight.source]) <= 0.5001 * steps).all()
        bias = exact[weight.source.replace("weight", "bias")]
        assert np.abs(graph.bias_values(node) - bias).max() < 1e-3


def test_writing_back_what_was_read_changes_no_byte(quantised: Path, tmp_path: Path) -> None:
    """Promise: the setters touch nothing but the numbers they are given."""
    graph = graph_of(quantised)
    for weight in graph.weights.values():
        graph.write_integers(weight.integers, graph.array(weight.integers))
        graph.write_scale(weight.scale, graph.array(weight.scale))
    for activation in graph.activations.values():
        graph.write_scale(activation.scale, graph.array(activation.scale))
    for node in graph.biases:
        graph.write_bias(node, graph.bias_values(node))
    graph.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == quantised.read_bytes()


def test_a_new_scale_keeps_the_bias_in_real_numbers(quantised: Path) -> None:
    """Promise: int32 biases stay what they are when a scale they are counted in changes, and their scale follows."""
    graph = graph_of(quantised)
    bias = graph.biases["conv1"]
    before = graph.bias_values("conv1")
    assert bias.scale is not None
    assert bias.input_scale is not None
    graph.write_scale(bias.input_scale, graph.array(bias.input_scale) * np.float32(1.3))
    steps = graph.array(bias.scale).astype(np.float64)
    np.testing.assert_allclose(graph.array(bias.values) * steps, before, atol=float(steps.max()))
    wanted = graph.array(bias.input_scale) * graph.array(str(bias.weight_scale))
    np.testing.assert_array_equal(graph.array(bias.scale), wanted)


def test_a_changed_file_still_runs(quantised: Path, images: np.ndarray) -> None:
    """Promise: a file with moved integers and a new scale is a valid model that gives something else."""
    before = Session(quantised.read_bytes(), threads=1, optimize=True).run(None, {"x": images[:4]})[0]
    graph = graph_of(quantised)
    integers = graph.array(graph.weights["head"].integers)
    graph.write_integers(graph.weights["head"].integers, np.clip(integers + 1, -127, 127))
    graph.write_scale(graph.activations["b"].scale, graph.array(graph.activations["b"].scale) * 2)
    onnx.checker.check_model(graph.model, full_check=True)
    after = Session(graph.model.SerializeToString(), threads=1, optimize=True).run(None, {"x": images[:4]})[0]
    assert not np.array_equal(before, after)


def test_values_that_do_not_fit_are_refused(quantised: Path) -> None:
    """Promise: wrong shapes, integers outside the type, and scales that are zero or not finite never reach the file."""
    graph = graph_of(quantised)
    before = graph.model.SerializeToString(deterministic=True)
    weight = graph.weights["head"]
    integers, scales = graph.array(weight.integers), graph.array(weight.scale)
    with pytest.raises(InputError, match="int8"):
        graph.write_integers(weight.integers, integers.astype(np.int32) + 200)
    with pytest.raises(InputError, match="int8"):
        graph.write_integers(weight.integers, integers[:3])
    for bad in (scales * 0, scales * np.nan, scales[:2]):
        with pytest.raises(InputError, match="positive"):
            graph.write_scale(weight.scale, bad)
    with pytest.raises(InputError, match="int32"):
        graph.write_bias("head", np.full(10, 1e30))
    with pytest.raises(InputError, match="finite"):
        graph.write_bias("head", np.full(10, np.nan))
    with pytest.raises(InputError, match="no initializer"):
        graph.array("nothing")
    assert graph.model.SerializeToString(deterministic=True) == before


def test_a_float_model_is_refused(residual: Path) -> None:
    """Promise: a file without a quantised weight is no Q/DQ file."""
    with pytest.raises(InputError, match="no quantised weight"):
        read_quantized(open_onnx(residual))
