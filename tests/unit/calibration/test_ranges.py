"""Promises of the choice of ranges by the error at the layers that read them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from calibration.collect import collect
from calibration.placement import place
from calibration.prepare import prepare
from calibration.qdq import quantize_model
from calibration.ranges import RangeChoice, choose_ranges
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import SCHEMES, scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

X86 = scheme("ort-x86")


def chosen(
    path: Path, images: NDArray[np.float32], *, name: str = "ort-x86", method: str = "minmax", **options: int
) -> tuple[dict[str, tuple[float, float]], tuple[RangeChoice, ...]]:
    samples = CalibrationSet({"x": images}, batch_size=16)
    table = collect(path, samples, threads=1)
    return choose_ranges(path, table, scheme(name), samples, method=method, threads=1, **options)


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return Session(path.read_bytes(), threads=1, optimize=False).run(None, {"x": images})[0]


def outliers(count: int = 64) -> NDArray[np.float32]:
    """Images of which one value is far larger than all others."""
    images = np.random.default_rng(2).standard_normal((count, 3, 8, 8)).astype(np.float32)
    images[0, 0, 0, 0] = 300.0
    return images


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_no_choice_is_worse_than_the_start(residual: Path, images: NDArray[np.float32], name: str, method: str) -> None:
    """From every method in every scheme, no group's error at its readers rises, and every tensor has a range."""
    ranges, choices = chosen(residual, images, name=name, method=method)
    assert all(0.0 <= choice.error_after <= choice.error_before for choice in choices)
    assert any(choice.error_after < choice.error_before for choice in choices)
    assert all(choice.tried <= 50 for choice in choices)
    placement = place(prepare(open_onnx(residual)).graph, scheme(name))
    assert set(ranges) == set(placement.roots)


def test_a_group_has_one_range(residual: Path, images: NDArray[np.float32]) -> None:
    """All tensors of a scale group get the same range, within what a folded clamp lets through."""
    ranges, _ = chosen(residual, images)
    placement = place(prepare(open_onnx(residual)).graph, X86)
    for name, root in placement.roots.items():
        assert ranges[name] == ranges[root]
        if name in placement.caps:
            assert ranges[name][0] == 0.0


def test_the_error_is_that_of_the_readers(save: Callable[..., Path]) -> None:
    """The figure equals an independent computation: the reader of the rounded tensor against that of the exact one."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((10, 192)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["g"], "gemm", transB=1),
        helper.make_node("Sigmoid", ["g"], ["y"], "last"),
    ]
    images = rng.standard_normal((48, 3, 8, 8)).astype(np.float32)
    path = save(nodes, {"w": weight})
    trt = scheme("trt")
    _, choices = chosen(path, images, name="trt")
    choice = choices[0]
    assert choice.tensor == "f"
    step = np.float32(max(-choice.start[0], choice.start[1]) / 127)
    flat = images.reshape(48, -1)
    rounded = np.clip(np.rint(flat / step), -128, 127) * step
    error = np.square((rounded - flat) @ weight.T).sum() / np.square(flat @ weight.T).sum()
    assert trt.activation_symmetric
    assert choice.error_before == pytest.approx(error, rel=1e-3)


def test_an_outlier_that_no_reader_sees_is_clipped(save: Callable[..., Path], tmp_path: Path) -> None:
    """One huge value behind a weight of zero takes no levels from the rest; the whole net becomes better by 10 dB."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3, 1, 1)).astype(np.float32)
    weight[:, 0] = 0.0
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flat"),
    ]
    path = save(nodes, {"w": weight}, outputs={"y": ["batch", 6]})
    images = outliers()
    samples = CalibrationSet({"x": images}, batch_size=16)
    table = collect(path, samples, threads=1)
    ranges, _ = choose_ranges(path, table, X86, samples, method="minmax", threads=1)
    assert ranges["x"][1] < 100.0
    out = tmp_path / "int8.onnx"
    errors = []
    for given in ({}, ranges):
        quantize_model(path, table, X86, "minmax", out, ranges=given)
        exact, rounded = (
            Session(p.read_bytes(), threads=1, optimize=False).run(None, {"x": images})[0] for p in (path, out)
        )
        errors.append(float(np.square(exact - rounded).sum()))
    assert errors[1] < 0.1 * errors[0]


def test_little_memory_changes_only_the_samples(residual: Path, images: NDArray[np.float32]) -> None:
    """In the smallest memory every group is still chosen."""
    wide, _ = chosen(residual, np.repeat(images, 8, axis=0), memory_mb=64)
    narrow, _ = chosen(residual, np.repeat(images, 8, axis=0), memory_mb=1)
    assert set(wide) == set(narrow)


def series(layout: str) -> tuple[list[onnx.NodeProto], dict[str, object]]:
    """Two layers over x (batch, 6, 8), written in several ways that compute the same."""
    rng = np.random.default_rng(5)
    constants: dict[str, object] = {
        "w": rng.standard_normal((8, 8)).astype(np.float32),
        "v": rng.standard_normal((8, 4)).astype(np.float32),
    }
    begin, inner = [], "x"
    if layout == "time first":
        begin, inner = [helper.make_node("Transpose", ["x"], ["turned"], "turn", perm=[1, 0, 2])], "turned"
    nodes = [*begin, helper.make_node("MatMul", [inner, "w"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"])]
    if layout != "sizes read as it runs":
        return [*nodes, helper.make_node("MatMul", ["b", "v"], ["y"], "last")], constants
    constants |= {"none": np.array(0, np.int64), "rest": np.array([6, 8], np.int64), "axis": np.array([0], np.int64)}
    return [
        *nodes,
        helper.make_node("Shape", ["b"], ["shape"]),
        helper.make_node("Gather", ["shape", "none"], ["count"]),
        helper.make_node("Unsqueeze", ["count", "axis"], ["row"]),
        helper.make_node("Concat", ["row", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["b", "sizes"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"], "last"),
    ], constants


@pytest.mark.parametrize("layout", ["time first", "sizes read as it runs"])
def test_the_layout_of_samples_changes_no_choice(save: Callable[..., Path], layout: str) -> None:
    """Samples along another axis than the first, a last batch that is not full, sizes read as it runs: as ever."""
    x = np.random.default_rng(7).standard_t(2, (52, 6, 8)).astype(np.float32)
    found = []
    for name in ("samples first", layout):
        nodes, constants = series(name)
        shape = [6, "batch", 4] if name == "time first" else ["batch", 6, 4]
        path = save(nodes, constants, inputs={"x": ["batch", 6, 8]}, outputs={"y": shape}, opset=17)
        found.append(chosen(path, x)[0])
    for name in ("b", "y"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-6)


def test_bad_arguments_are_refused(residual: Path, images: NDArray[np.float32], save: Callable[..., Path]) -> None:
    """An unknown method, a table of another model, wrong samples and empty limits are errors."""
    samples = CalibrationSet({"x": images}, batch_size=16)
    table = collect(residual, samples, threads=1, methods=["minmax"])
    with pytest.raises(InputError, match="'mse'"):
        choose_ranges(residual, table, X86, samples, method="mse", threads=1)
    with pytest.raises(InputError, match="another model"):
        choose_ranges(residual, replace(table, model_sha256="0" * 64), X86, samples, method="minmax", threads=1)
    wrong = CalibrationSet({"x": images[:, :2]}, batch_size=16)
    with pytest.raises(InputError, match="samples 'x'"):
        choose_ranges(residual, table, X86, wrong, method="minmax", threads=1)
    with pytest.raises(InputError, match="max_samples=0"):
        choose_ranges(residual, table, X86, samples, method="minmax", threads=1, max_samples=0)
