"""Data meets model: names, dtypes, shapes, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.data import Split
from pipeline.stages.calibrate import spread
from pipeline.stages.import_onnx import bind_to_onnx
from pipeline.stages.inference import save_inputs, served_batch
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def split(**arrays: np.ndarray) -> Split:
    return Split(inputs=arrays, labels=None)


def description(*shape: int | str, dtype: str = "float32", name: str = "x") -> dict[str, Any]:
    return {"inputs": [{"name": name, "dtype": dtype, "shape": list(shape)}]}


def test_a_lone_unnamed_array_takes_the_model_s_name() -> None:
    """Whatever the model calls it."""
    bound = bind_to_onnx(split(**{"": np.zeros((4, 3), np.float32)}), description("batch", 3, name="image"))
    assert list(bound.inputs) == ["image"]


@pytest.mark.parametrize(
    ("given", "wanted", "words"),
    [
        (split(y=np.zeros((4, 3), np.float32)), description("batch", 3), ["inputs y", "takes x"]),
        (split(x=np.zeros((4, 5), np.float32)), description("batch", 3), ["(5,)", "(3,)"]),
        (split(x=np.zeros((4, 3), np.int64)), description("batch", 3), ["int64", "float32"]),
        (split(x=np.zeros((4, 3, 1), np.float32)), description("batch", 3), ["(3, 1)", "(3,)"]),
    ],
)
def test_what_does_not_fit_names_both_sides(given: Split, wanted: dict[str, Any], words: list[str]) -> None:
    """Names, shapes and dtypes of data and model."""
    with pytest.raises(InputError) as caught:
        bind_to_onnx(given, wanted)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_free_axes_take_any_size() -> None:
    """A named axis is no number to compare with."""
    assert len(bind_to_onnx(split(x=np.zeros((4, 9), np.float32)), description("batch", "length"))) == 4


@pytest.mark.parametrize(("first", "batch"), [("batch", 32), (1, 1)])
def test_the_batch_is_what_the_model_takes(first: int | str, batch: int) -> None:
    """A free axis takes many, a fixed 1 takes one."""
    assert served_batch(description(first, 3)) == batch


@pytest.mark.parametrize(("most", "batch"), [(1, 1), (8, 8), (64, 32)])
def test_the_batch_is_what_the_engine_was_built_for(most: int, batch: int) -> None:
    """An engine built for some batch sizes gets no larger one: TensorRT refuses what its profile does not cover."""
    shapes = {"x": {"min": [1, 3], "opt": [1, 3], "max": [most, 3]}}
    assert served_batch({**description("batch", 3), "options": {"shapes": shapes}}) == batch


def test_a_batch_fixed_to_another_number_is_refused() -> None:
    """With the number."""
    with pytest.raises(InputError, match="fixed to 8"):
        served_batch(description(8, 3))


def test_saved_inputs_come_back(tmp_path: Path) -> None:
    """An array each, under any name."""
    save_inputs(tmp_path / "x.npz", split(file=np.arange(3), b=np.ones((2, 2), np.float32)[:2]))
    with np.load(tmp_path / "x.npz") as archive:
        assert sorted(archive.files) == ["b", "file"]


def test_calibration_samples_are_spread_over_sorted_data() -> None:
    """The first and the last sample are among them, and none comes twice."""
    taken = spread(split(x=np.arange(1000)), 10).inputs["x"]
    assert (taken[0], taken[-1], len(set(taken.tolist()))) == (0, 999, 10)
    assert len(spread(split(x=np.arange(5)), 10)) == 5
