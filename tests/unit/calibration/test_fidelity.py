"""Promises of the comparison with the float model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from calibration.fidelity import Fidelity, Judge, output_snr_db
from calibration.joining import joined
from calibration.samples import CalibrationSet
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def fidelity(same: list[int]) -> Fidelity:
    return Fidelity(snr_db=0.0, agreement=0.0, accuracy=None, same=np.array(same, bool))


def test_nan_outputs_are_an_error() -> None:
    """An int8 model that gives NaN is refused, not scored."""
    with pytest.raises(InputError, match="gives NaN or Inf"):
        output_snr_db([np.ones(3, np.float32)], [np.array([1.0, np.nan, 1.0], np.float32)])


def test_nan_of_the_float_model_is_not_blamed_on_int8() -> None:
    """A float model that gives Inf is refused as such."""
    with pytest.raises(InputError, match="float model holds NaN or Inf"):
        output_snr_db([np.array([-np.inf, 1.0], np.float32)], [np.ones(2, np.float32)])


def test_figures_of_known_outputs(residual: Path, images: NDArray[np.float32]) -> None:
    """Noise of a tenth of the signal is 20 dB; agreement and accuracy are counted exactly."""
    import onnxruntime

    exact = onnxruntime.InferenceSession(residual).run(None, {"x": images})[0]
    labels = exact.argmax(1)
    labels[:6] = -1
    judge = Judge(residual, CalibrationSet({"x": images}, batch_size=7), labels=labels, threads=1)
    scaled = judge.compare([exact * np.float32(1.1)])
    assert scaled.snr_db == pytest.approx(20.0, abs=0.01)
    assert (scaled.agreement, scaled.accuracy) == (1.0, 0.9)
    turned = exact.copy()
    turned[:15] = -turned[:15]
    assert judge.compare([turned]).agreement == 0.75


def test_outputs_without_classes_have_no_agreement(residual: Path, images: NDArray[np.float32]) -> None:
    """A single column has no largest class: None, and no claim that agreement fell."""
    judge = Judge(residual, CalibrationSet({"x": images}, batch_size=60), threads=1)
    judge._exact = [np.ones((60, 1), np.float32)]
    found = judge.compare([np.ones((60, 1), np.float32)])
    assert (found.agreement, found.accuracy, found.same.size) == (None, None, 0)
    assert not found.agrees_less_than(found)


def test_samples_may_lie_along_any_axis(save: Callable[..., Path], images: NDArray[np.float32]) -> None:
    """An output with the samples along its second axis, as an LSTM's state, and a last batch that is not full."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Transpose", ["f"], ["y"], "turn", perm=[1, 0]),
    ]
    judge = Judge(save(nodes, {}, outputs={"y": [3, "batch"]}), CalibrationSet({"x": images}, batch_size=7), threads=1)
    exact = images.mean((2, 3)).T
    assert judge.compare([exact * np.float32(1.1)]).snr_db == pytest.approx(20.0, abs=0.01)


def test_an_output_whose_size_depends_on_values_is_named(save: Callable[..., Path]) -> None:
    """Where samples or models give other numbers of values, the output is named and what to export instead."""
    nodes = [
        helper.make_node("Greater", ["x", "limit"], ["g"], "above"),
        helper.make_node("NonZero", ["g"], ["n"], "where"),
        helper.make_node("Cast", ["n"], ["y"], "cast", to=1),
    ]
    path = save(nodes, {"limit": np.float32(0)}, inputs={"x": ["batch", 4]}, outputs={"y": [2, "found"]})
    x = np.array([[1, 1, -1, -1], [1, -1, -1, -1]], np.float32)
    judge = Judge(path, CalibrationSet({"x": x}, batch_size=1), threads=1)
    with pytest.raises(InputError, match=r"output 'y' has the shape \[2, 3\] once and \[2, 4\] once"):
        judge.compare([np.ones((2, 4), np.float32)])
    with pytest.raises(InputError, match="select outside the model"):
        joined([np.ones((1, 2, 4)), np.ones((2, 3, 4))], "y")


def test_labels_must_fit(residual: Path, images: NDArray[np.float32]) -> None:
    """Other numbers of labels than samples are refused."""
    with pytest.raises(InputError, match=r"labels of shape \[3\] for 60 samples"):
        Judge(residual, CalibrationSet({"x": images}, batch_size=60), labels=np.zeros(3, np.int64), threads=1)


@pytest.mark.parametrize(("lost", "gained", "worse"), [(1, 0, False), (2, 0, False), (3, 0, True), (9, 6, False)])
def test_agreement_falls_only_beyond_chance(lost: int, gained: int, *, worse: bool) -> None:
    """Few flips among many samples are noise: a one-sided sign test at one in twenty."""
    before = fidelity([1] * lost + [0] * gained + [1] * 90)
    after = fidelity([0] * lost + [1] * gained + [1] * 90)
    assert after.agrees_less_than(before) is worse
    assert (lost - gained > 1.645 * math.sqrt(lost + gained)) is worse
