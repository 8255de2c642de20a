"""Segmentation: intersection over union of the pixels that count, against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import Dataset, Split
from pipeline.tasks import Segmentation
from targets.errors import InputError

TASK = Segmentation()


def data(labels: np.ndarray) -> Dataset:
    return Dataset(splits={"validation": Split(inputs={"": np.zeros((len(labels), 1), np.float32)}, labels=labels)})


@given(seed=st.integers(0, 999), classes=st.integers(2, 5))
@settings(deadline=None, max_examples=20)
def test_miou_is_plain_counting(seed: int, classes: int) -> None:
    """Promise: over all pixels of the split, those of -1 left out, classes that never occur left out."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((3, classes, 4, 5)).astype(np.float32)
    labels = rng.integers(-1, classes - 1, (3, 4, 5))  # the last class is in no label
    found, counts = logits.argmax(1), labels >= 0
    shares = []
    for label in range(classes):
        either = counts & ((found == label) | (labels == label))
        if either.any():
            shares.append((counts & (found == label) & (labels == label)).sum() / either.sum())
    scores = TASK.scores([logits], labels, [])
    assert scores["accuracy"] == pytest.approx(float(np.mean(shares)), rel=1e-12)
    assert scores["beside"]["pixel_accuracy"] == pytest.approx((found == labels)[counts].mean(), rel=1e-12)


def test_pixels_that_do_not_count_teach_nothing() -> None:
    """Promise: no gradient flows to a pixel of -1."""
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    TASK.loss([logits], torch.tensor([[[1, -1]]]), label_smoothing=0.0).backward()
    assert logits.grad is not None
    assert (logits.grad[..., 0] != 0).all()
    assert (logits.grad[..., 1] == 0).all()


@pytest.mark.parametrize(
    ("labels", "shape", "words"),
    [
        (np.zeros((2, 4, 4)), (2, 3, 4, 4), "float64"),
        (np.full((2, 4, 4), -2), (2, 3, 4, 4), "-1 marks pixels"),
        (np.ones((2, 4, 4), np.int64), (2, 3, 4, 4), "one class only"),
        (np.arange(32).reshape(2, 4, 4) % 3, (2, 3, 2, 2), "upsample"),
        (1 + np.arange(32).reshape(2, 4, 4) % 3, (2, 3, 4, 4), "look 1-based"),
    ],
)
def test_masks_that_do_not_fit_are_refused(labels: np.ndarray, shape: tuple[int, ...], words: str) -> None:
    """Promise: floats, odd numbers, one class, another size, 1-based classes: each is named."""
    with pytest.raises(InputError, match=words):
        _checked(labels, shape)


def _checked(labels: np.ndarray, shape: tuple[int, ...]) -> None:
    TASK.check_labels(data(labels))
    TASK.check_outputs([np.zeros(shape, np.float32)], data(labels))
