"""Masks of -inf, as exporters write them for attention, are no mistake: the rest of the model is quantised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.collect import collect
from calibration.half import HalfSettings, convert_half
from calibration.masks import infinite_tensors
from calibration.modelfile import open_float
from calibration.nodesnr import outputs_by_node
from calibration.prepare import prepare
from calibration.qdq import quantize_model, snr_db
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.scheme import SCHEMES, scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAUSAL = np.triu(np.ones((8, 8), np.bool_), 1)
KINDS = ("added", "chosen", "made")


@pytest.fixture
def x() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(64, 8, 16)).astype(np.float32)


def attention(kind: str, save: Callable[..., Path], fill: float = -np.inf) -> Path:
    """One causal head: the mask is added, or a fill that Where chooses, or made while the model runs."""
    rng = np.random.default_rng(0)
    constants: dict[str, object] = {name: (rng.normal(size=(16, 16)) / 4).astype(np.float32) for name in "qkvo"}
    masked = {
        "added": [helper.make_node("Add", ["scores", "mask"], ["masked"], "mask")],
        "chosen": [helper.make_node("Where", ["causal", "fill", "scores"], ["masked"], "mask")],
        "made": [
            helper.make_node("ConstantOfShape", ["sizes"], ["full"], value=numpy_helper.from_array(np.float32([fill]))),
            helper.make_node("Where", ["causal", "full", "zero"], ["upper"], "upper"),
            helper.make_node("Unsqueeze", ["upper", "first"], ["wide"], "wide"),
            helper.make_node("Add", ["wide", "scores"], ["masked"], "mask"),
        ],
    }[kind]
    if kind == "added":
        constants["mask"] = np.where(CAUSAL, np.float32(fill), np.float32(0.0))
    else:
        constants |= {"causal": CAUSAL, "fill": np.float32(fill), "zero": np.float32(0.0)}
        constants |= {"sizes": np.array([8, 8], np.int64), "first": np.array([0], np.int64)}
    nodes = [
        *(helper.make_node("MatMul", ["x", name], [f"{name}x"], f"{name}_proj") for name in "qkv"),
        helper.make_node("Transpose", ["kx"], ["kt"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["qx", "kt"], ["scores"], "product"),
        *masked,
        helper.make_node("Softmax", ["masked"], ["shares"], "softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "vx"], ["mixed"], "mix"),
        helper.make_node("MatMul", ["mixed", "o"], ["y"], "out"),
    ]
    used = {name for node in nodes for name in node.input}
    shape = ["n", 8, 16]
    kept = {name: value for name, value in constants.items() if name in used}
    return save(nodes, kept, inputs={"x": shape}, outputs={"y": shape}, opset=17)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_infinite_is_found(kind: str, save: Callable[..., Path]) -> None:
    """From the constant on until the Softmax; with a finite fill nothing is."""
    found = infinite_tensors(prepare(open_float(attention(kind, save))).graph)
    assert "masked" in found
    assert not found & {"scores", "shares", "mixed", "y", "qx", "x"}
    assert not infinite_tensors(prepare(open_float(attention(kind, save, -1e4))).graph)


def test_bounds_are_no_masks(save: Callable[..., Path]) -> None:
    """A Clip to infinity and a Max with -inf give finite numbers."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Clip", ["c", "zero", "high"], ["d"], "clip"),
        helper.make_node("Max", ["d", "low"], ["y"], "max"),
    ]
    constants = {
        "w": np.ones((4, 3, 3, 3), np.float32), "zero": np.float32(0), "high": np.float32(np.inf),
        "low": np.float32(-np.inf),
    }  # fmt: skip
    path = save(nodes, constants, outputs={"y": ["batch", 4, 6, 6]})
    assert infinite_tensors(prepare(open_float(path)).graph) == frozenset()


@pytest.mark.parametrize("dialect", sorted(SCHEMES))
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_quantised(
    kind: str, dialect: str, x: NDArray[np.float32], save: Callable[..., Path], tmp_path: Path
) -> None:
    """It is measured and placed as with a finite mask: the same int8 layers and the same outputs."""
    answers, placed = [], []
    for fill in (-np.inf, -1e4):
        source, out = attention(kind, save, fill), tmp_path / "q.onnx"
        table = collect(source, CalibrationSet({"x": x}, batch_size=16), threads=1)
        layers = quantize_model(source, table, scheme(dialect), "minmax", out)
        placed.append({layer.node for layer in layers if layer.precision == "int8"})
        answers.append(Session(out, threads=1, optimize=True).run(None, {"x": x})[0])
        reason = next(layer.reason for layer in layers if layer.node == "mask")
        assert ("mask of -inf" in reason) == (fill == -np.inf)
    assert {"q_proj", "k_proj", "v_proj", "out"} <= placed[0]
    assert placed[0] == placed[1]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_around_it_are_measured(
    kind: str, x: NDArray[np.float32], save: Callable[..., Path], tmp_path: Path
) -> None:
    """The noise of each node is told where it can be; float16 has infinities of its own, so the mask is halved too."""
    source, out = attention(kind, save), tmp_path / "q.onnx"
    samples = CalibrationSet({"x": x}, batch_size=16)
    quantize_model(source, collect(source, samples, threads=1), scheme("ort-x86"), "minmax", out)
    seen = outputs_by_node(source, out, samples, threads=1)
    assert "mask" not in seen
    assert seen["out"].snr_db is not None
    report = convert_half(source, tmp_path / "half.onnx", HalfSettings(dtype="float16"), samples=[{"x": x}])
    assert "mask" in report.changed
    exact, half = (Session(path, threads=1, optimize=True) for path in (source, tmp_path / "half.onnx"))
    assert snr_db(exact.run(None, {"x": x})[0], half.run(None, {"x": x})[0]) > 50


def test_an_infinite_weight_is_a_mistake(save: Callable[..., Path]) -> None:
    """Infinities beside other numbers, or of both signs, are refused as before."""
    path = attention("added", save)
    for values in ([-np.inf, 0.5], [-np.inf, np.inf], [np.nan, 0.0]):
        model = onnx.load(str(path))
        mask = next(tensor for tensor in model.graph.initializer if tensor.name == "mask")
        wrong = numpy_helper.to_array(mask).copy()
        wrong[0, :2] = values
        mask.CopyFrom(numpy_helper.from_array(wrong, "mask"))
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match=r"'mask' of .* NaN or Inf"):
            open_float(path)
