"""Regression: the usual figures of numbers, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import Dataset, Split
from pipeline.tasks import Regression
from targets.errors import InputError

TASK = Regression()


def data(**labels: np.ndarray) -> Dataset:
    return Dataset(
        splits={n: Split(inputs={"": np.zeros((len(y), 1), np.float32)}, labels=y) for n, y in labels.items()}
    )


@given(seed=st.integers(0, 999), targets=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_figures_are_the_formulas(seed: int, targets: int) -> None:
    """Promise: R2 as the mean over targets, RMSE and MAE over all values."""
    rng = np.random.default_rng(seed)
    wanted = rng.standard_normal((20, targets)).astype(np.float32)
    found = (wanted + 0.3 * rng.standard_normal((20, targets))).astype(np.float32)
    error = found.astype(np.float64) - wanted
    spread = (wanted - wanted.astype(np.float64).mean(0)) ** 2
    r2 = np.mean(1 - (error**2).sum(0) / spread.sum(0))
    scores = TASK.scores([found], wanted, [])
    assert scores["accuracy"] == pytest.approx(r2, rel=1e-9)
    assert scores["beside"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert scores["beside"]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-9)


def test_one_target_may_be_a_row_or_a_column() -> None:
    """Promise: (N,) and (N, 1) mean the same, in score and loss."""
    found, wanted = np.array([1.0, 2.0, 4.0], np.float32), np.array([1.0, 2.0, 3.0], np.float32)
    assert TASK.score([found[:, None]], wanted, []) == TASK.score([found], wanted[:, None], [])
    loss = TASK.loss([torch.from_numpy(found[:, None])], torch.from_numpy(wanted), label_smoothing=0.0)
    assert float(loss) == pytest.approx(1 / 3)


def test_outputs_that_are_no_numbers_are_the_worst() -> None:
    """Promise: NaN meets no floor, and is no crash."""
    assert TASK.score([np.array([np.nan, 1.0], np.float32)], np.array([1.0, 2.0]), []) == float("-inf")


def test_labels_that_cannot_be_regressed_are_refused() -> None:
    """Promise: images as labels, and a target of one value, are named."""
    with pytest.raises(InputError, match="regression takes numbers"):
        TASK.check_labels(data(validation=np.zeros((2, 3, 4))))
    with pytest.raises(InputError, match="one value only"):
        TASK.check_labels(data(validation=np.ones((5, 1))))
    with pytest.raises(InputError, match="needs \\(batch, 2\\)"):
        TASK.check_outputs([np.zeros((2, 1))], data(validation=np.arange(6).reshape(3, 2)))
    assert TASK.check_labels(data(validation=np.arange(4.0)))["targets"] == 1
