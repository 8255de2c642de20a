"""Fidelity: 1 for the same outputs, falling with the relative error of the worst output, never below 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import Dataset, Split
from pipeline.tasks import Fidelity

TASK = Fidelity()
RNG = np.random.default_rng(0)
WANTED = RNG.standard_normal((20, 5), dtype=np.float32)


def test_equal_outputs_score_one() -> None:
    """A model is its own best copy, even where it gives zeros."""
    assert TASK.score([WANTED], None, [WANTED]) == 1.0
    assert TASK.score([np.zeros_like(WANTED)], None, [np.zeros_like(WANTED)]) == 1.0


@given(error=st.floats(0.001, 0.9), scale=st.sampled_from([1e-3, 1.0, 1e4]))
@settings(deadline=None, max_examples=25)
def test_score_is_one_minus_the_relative_error(error: float, scale: float) -> None:
    """An error of that share of the root mean square costs that share, at any scale."""
    wanted = WANTED.astype(np.float64) * scale
    assert TASK.score([wanted * (1 + error)], None, [wanted]) == pytest.approx(1 - error, rel=1e-9)


def test_worst_output_counts() -> None:
    """Good outputs do not hide a bad one, whatever the order."""
    bad = WANTED * 1.5
    for outputs in ([WANTED, bad], [bad, WANTED]):
        assert TASK.score(outputs, None, [WANTED, WANTED]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, 1e30])
@pytest.mark.parametrize("place", [0, 1])
def test_useless_outputs_score_zero(value: float, place: int) -> None:
    """NaN and runaway values score 0, in whichever output they are."""
    outputs = [WANTED.copy(), WANTED.copy()]
    outputs[place][3, 2] = value
    assert TASK.score(outputs, None, [WANTED, WANTED]) == 0.0


def test_answer_where_there_is_none_scores_zero() -> None:
    """Against a reference of zeros any other value is wholly wrong."""
    assert TASK.score([WANTED], None, [np.zeros_like(WANTED)]) == 0.0


def test_other_number_of_outputs_is_an_error() -> None:
    """Outputs are never compared with those of another model."""
    with pytest.raises(ValueError, match="argument 2"):
        TASK.score([WANTED], None, [WANTED, WANTED])


def test_labels_are_not_needed() -> None:
    """Data without labels passes; the loss for callers with targets is the mean squared error."""
    data = Dataset(splits={"validation": Split(inputs={"": WANTED}, labels=None)})
    assert TASK.check_labels(data) == {}
    found = TASK.loss([torch.zeros(2, 2)], torch.full((2, 2), 3.0), label_smoothing=0.0)
    assert float(found) == 9.0
