"""Classification: labels are class numbers, the score is the share of right answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import Dataset, Split
from pipeline.tasks import Classification
from targets.errors import InputError

TASK = Classification()


def _data(**labels: npt.ArrayLike | None) -> Dataset:
    splits = {}
    for name, values in labels.items():
        array = None if values is None else np.asarray(values)
        count = 2 if array is None else len(array)
        splits[name] = Split(inputs={"": np.zeros((count, 1), dtype=np.float32)}, labels=array)
    return Dataset(splits=splits)


@given(data=st.data(), samples=st.integers(1, 50), classes=st.integers(2, 7))
@settings(deadline=None, max_examples=25)
def test_score_is_the_exact_share(data: st.DataObject, samples: int, classes: int) -> None:
    """Top-1 accuracy equals numpy's count, to the last bit."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = rng.standard_normal((samples, classes), dtype=np.float32)
    labels = rng.integers(0, classes, samples).astype(data.draw(st.sampled_from(["uint8", "int32", "int64"])))
    assert TASK.score([logits], labels, []) == np.count_nonzero(logits.argmax(1) == labels) / samples


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_cross_entropy(smoothing: float) -> None:
    """The loss equals the formula in numpy float64."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    found = TASK.loss([torch.from_numpy(logits)], torch.from_numpy(labels), label_smoothing=smoothing)
    assert float(found) == pytest.approx(float(-(target * log_p).sum(1).mean()), rel=1e-12)


def test_good_labels_pass() -> None:
    """Whole class numbers of any integer type pass; calibration needs none."""
    data = _data(calibration=None, train=[0, 1], validation=np.array([2, 0], dtype=np.uint8))
    assert TASK.check_labels(data) == {"classes_seen": 2}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"validation": None}, ["'validation' has no labels", "fidelity"]),
        ({"train": None, "validation": [0, 1]}, ["'train' has no labels"]),
        ({"validation": [0.0, 1.0]}, ["float64", "astype(np.int64)"]),
        ({"validation": np.eye(3, dtype=np.int64)}, ["(3, 3)", "argmax(1)"]),
        ({"validation": [0, -1]}, ["'validation'", "-1", "start at 0"]),
        ({"validation": [True, False]}, ["bool"]),
        ({"validation": [3, 3, 3]}, ["one class only"]),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels: dict[str, Any], words: list[str]) -> None:
    """Each wrong kind is named with its split and what to write instead."""
    with pytest.raises(InputError) as caught:
        TASK.check_labels(_data(**labels))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_label_beyond_the_outputs_hints_at_one_based_labels() -> None:
    """Labels 1..4 for four outputs are refused in whichever split they are."""
    with pytest.raises(InputError) as caught:
        TASK.check_outputs([np.zeros((2, 4), dtype=np.float32)], _data(validation=[0, 3], test=[1, 4]))
    assert all(word in str(caught.value) for word in ("'test'", "label 4", "0 to 3", "labels - 1"))


def test_labels_that_fit_the_outputs_pass() -> None:
    """The largest label may be the last column."""
    TASK.check_outputs([np.zeros((2, 4), dtype=np.float32)], _data(validation=[0, 3], calibration=None))


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4)])
def test_first_output_must_be_logits(shape: tuple[int, ...]) -> None:
    """A first output of another rank is named by its shape."""
    with pytest.raises(InputError, match=r"first output has shape"):
        TASK.check_outputs([np.zeros(shape, dtype=np.float32)], _data(validation=[0, 1]))


def test_labels_of_any_layout_are_scored() -> None:
    """Reversed, read-only, of any whole type: what numpy can index, the score takes, without a warning."""
    labels = np.arange(4, dtype=np.uint16)[::-1]
    labels.flags.writeable = False
    assert TASK.score([np.eye(4, dtype=np.float32)[::-1].copy()], labels, []) == 1.0
