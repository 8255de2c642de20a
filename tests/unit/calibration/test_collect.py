"""Promises of the calibration pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from calibration.collect import collect
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def test_minmax_is_exact_and_batching_does_not_matter(residual: Path, images: NDArray[np.float32]) -> None:
    """Min-max ranges are those of a float64 reference over all samples; no method depends on the batch size."""
    tables = [
        collect(residual, CalibrationSet({"x": images}, batch_size=size), threads=1, every="all") for size in (7, 60)
    ]
    output = Session(residual.read_bytes(), threads=1, optimize=False).run(None, {"x": images})[0]
    for table in tables:
        assert table.tensors["y"]["minmax"] == pytest.approx((output.min(), output.max()), rel=1e-5)
        assert table.tensors["x"]["minmax"] == (float(images.min()), float(images.max()))
    for name, ranges in tables[0].tensors.items():
        for method, pair in ranges.items():
            assert pair == pytest.approx(tables[1].tensors[name][method], rel=0.02, abs=1e-4)


def test_groups_small_batches_and_threads_give_the_same_table(save: Callable[..., Path]) -> None:
    """A memory limit below one sample's activations splits tensors into groups; the ranges are those of one pass."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"v": rng.standard_normal((16, 3, 3, 3)), "w": rng.standard_normal((16, 16, 3, 3)) / 10}
    path = save(
        nodes,
        {name: value.astype(np.float32) for name, value in weights.items()},
        inputs={"x": ["batch", 3, 200, 200]},
        outputs={"y": ["batch", 16, 200, 200]},
    )
    samples = CalibrationSet({"x": rng.standard_normal((6, 3, 200, 200)).astype(np.float32)}, batch_size=6)
    whole = collect(path, samples, threads=1, every="all")
    for threads, memory_mb in ((1, 3), (2, 64)):
        parts = collect(path, samples, threads=threads, every="all", memory_mb=memory_mb)
        assert parts.facts.keys() == whole.facts.keys() == {"x", "a", "b", "y"}
        for name, ranges in whole.tensors.items():
            assert parts.facts[name].count == whole.facts[name].count
            for method, pair in ranges.items():
                assert parts.tensors[name][method] == pytest.approx(pair, rel=0.02, abs=1e-4)


def test_the_raw_side_of_a_clamp_has_the_range_behind_it(residual: Path, images: NDArray[np.float32]) -> None:
    """What only a Relu or a Clip from zero reads has that clamp's range: nothing else of it can matter."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=16), threads=1)
    for raw, clamped in (("a", "b"), ("c", "d"), ("h", "i")):
        assert table.tensors[raw] == table.tensors[clamped]
        assert table.tensors[raw]["minmax"][0] == 0.0


def test_facts_and_ids_tell_what_was_seen(residual: Path, images: NDArray[np.float32]) -> None:
    """Counts are exact, sampled histograms saw at least one value in eight, and samples are named by their content."""
    samples = CalibrationSet({"x": images}, batch_size=16)
    table = collect(residual, samples, threads=1)
    assert table.sample_ids == samples.ids
    assert table.facts["x"].count == images.size
    for facts in table.facts.values():
        assert facts.count >= facts.histogram_count >= facts.count / 8
        assert facts.outside_ratio["minmax"] == 0.0
        assert 0.0 <= facts.scale_spread_ratio < 0.5
    assert 0.2 < table.facts["b"].zeros_ratio < 0.8
    assert table.serves(model_sha256=table.model_sha256, data_sha256=samples.content_sha256, methods=["entropy", "mse"])
    assert not table.serves(model_sha256="0", data_sha256=samples.content_sha256, methods=["mse"])
    assert not table.serves(
        model_sha256=table.model_sha256, data_sha256=samples.content_sha256, methods=["mse"], every="all"
    )


def test_every_method_is_inside_minmax(residual: Path, images: NDArray[np.float32]) -> None:
    """No method gives a range wider than what was seen (zero counts as seen)."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=16), threads=1)
    for ranges in table.tensors.values():
        low, high = min(ranges["minmax"][0], 0.0), max(ranges["minmax"][1], 0.0)
        assert all(low <= a <= b <= high for a, b in ranges.values())
    assert table.samples == 60


def test_histogram_of_a_large_tensor_misses_no_channel(save: Callable[..., Path]) -> None:
    """A large tensor is sampled at a stride that visits every channel: an outlier channel moves the MSE range."""
    images = np.zeros((8, 3, 64, 64), np.float32)
    images[:, 2] = 5.0
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(
        nodes,
        {"w": np.ones((4, 3, 1, 1), np.float32)},
        inputs={"x": ["batch", 3, 64, 64]},
        outputs={"y": ["batch", 4, 64, 64]},
    )
    table = collect(path, CalibrationSet({"x": images}, batch_size=8), threads=1)
    assert table.tensors["x"]["mse"][1] == pytest.approx(5.0, rel=0.05)


def test_nan_activation_names_tensor_and_sample(save: Callable[..., Path]) -> None:
    """An activation that overflows is reported with its tensor and the index of the sample."""
    images = np.ones((10, 3, 8, 8), np.float32)
    images[7] = 1e38
    nodes = [helper.make_node("Conv", ["x", "w"], ["hot"]), helper.make_node("Relu", ["hot"], ["y"])]
    path = save(nodes, {"w": np.full((4, 3, 3, 3), 100.0, np.float32)}, outputs={"y": ["batch", 4, 6, 6]})
    with pytest.raises(InputError, match="'hot' becomes NaN or Inf at sample 7"):
        collect(path, CalibrationSet({"x": images}, batch_size=4), threads=1)


def test_nan_is_named_where_it_began(save: Callable[..., Path]) -> None:
    """Operators that no dialect quantises are named too; a mask of -inf that a Softmax takes away again is not."""
    images = np.ones((6, 3, 8, 8), np.float32)
    images[4] = 0.0
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["share"], axis=3),
        helper.make_node("Log", ["x"], ["logarithm"]),
        helper.make_node("Abs", ["logarithm"], ["size"]),
        helper.make_node("Add", ["share", "size"], ["both"]),
        helper.make_node("Conv", ["both", "w"], ["y"]),
    ]
    mask = np.where(np.arange(8) % 2, 0.0, -np.inf).astype(np.float32)
    constants = {"w": np.ones((4, 3, 3, 3), np.float32), "mask": mask}
    path = save(nodes, constants, outputs={"y": ["batch", 4, 6, 6]})
    with pytest.raises(InputError, match="'logarithm' becomes NaN or Inf at sample 4"):
        collect(path, CalibrationSet({"x": images}, batch_size=3), threads=1)


def test_unknown_methods_and_unquantisable_models_are_refused(
    residual: Path, save: Callable[..., Path], images: NDArray[np.float32]
) -> None:
    """An unknown method lists the known ones; a model with nothing to observe is an error."""
    samples = CalibrationSet({"x": images}, batch_size=16)
    with pytest.raises(InputError, match="no calibration method is called 'minmx'"):
        collect(residual, samples, threads=1, methods=["minmx"])
    other = save([helper.make_node("Erf", ["x"], ["y"])], {}, outputs={"y": ["batch", 3, 8, 8]})
    with pytest.raises(InputError, match="no activation to observe"):
        collect(other, samples, threads=1)
