"""Widths for a latency: measured, corrected, and honest about what was reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.graph import trace
from pipeline.latency.knapsack import values_of
from pipeline.latency.layers import anatomy
from pipeline.latency.model import Curve, LatencyModel
from pipeline.latency.search import Goal, Measured, Round, find_widths
from pipeline.pruning import find_groups
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.widths import Widths

DENSE_MS = 2.0


def model() -> LatencyModel:
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.Linear(64, 4))
    gm = trace(net.eval(), {"input": torch.zeros(2, 8)})
    choices = {group.name: tuple(range(4, 65, 4)) for group in find_groups(gm).groups}
    found = anatomy(gm, find_groups(gm), choices)
    curve = Curve(coefficients_ms=(0.0, 1e-4, 0.0, 0.0), blocks=(1, 1))
    return LatencyModel(anatomy=found, curves={layer.module: curve for layer in found.layers}, rest_ms=(0.1, 0.0))


def scores(found: LatencyModel) -> dict[str, Scores]:
    rng = np.random.default_rng(0)
    return {name: rng.random(widths[-1]) for name, widths in found.anatomy.choices.items()}


def run(goal: Goal, wrong: float = 1.0) -> tuple[Round, ...]:
    """The device is what the model says, pruned nets ``wrong`` times slower."""
    found = model()
    compared = scores(found)
    whole = found.predict_ms(found.anatomy.whole)

    def measure(widths: Widths) -> Measured:
        return Measured(latency_ms=DENSE_MS * found.predict_ms(widths) / whole * wrong, dense_ms=DENSE_MS)

    values = values_of(found.anatomy.choices, compared)
    return find_widths(found, values, compared, goal, DENSE_MS, measure, lambda _number, _text: None)


@pytest.mark.parametrize(
    "goal",
    [
        Goal(ratio=0.5, latency_ms=None, tolerance=0.05, rounds=3),
        Goal(ratio=None, latency_ms=0.9, tolerance=0.05, rounds=3),
    ],
)
def test_a_model_that_is_off_is_corrected(goal: Goal) -> None:
    """Promise: where nets take 25 % longer than foretold, a second round comes within the tolerance."""
    assert len(run(goal)) == 1
    rounds = run(goal, wrong=1.25)
    assert 2 <= len(rounds) <= 3
    assert abs(rounds[-1].off_ratio) <= 0.05
    assert abs(rounds[0].off_ratio) > 0.05
    assert rounds[-1].predicted_ms == pytest.approx(rounds[-1].measured_ms, rel=0.05)
    assert 0 < rounds[-1].importance_ratio < 1


def test_out_of_reach_says_how_far_it_goes() -> None:
    """Promise: a latency below the narrowest net's is an error with the least there is, and what would be left."""
    with pytest.raises(InputError, match="cannot be reached") as error:
        run(Goal(ratio=0.05, latency_ms=None, tolerance=0.05, rounds=3))
    assert "% of the importance" in error.value.why
    assert "at least" in error.value.fix


def test_fast_enough_already() -> None:
    """Promise: a latency that the dense engine has already is an error, not an unpruned net."""
    with pytest.raises(InputError, match="would remove nothing"):
        run(Goal(ratio=None, latency_ms=2.5, tolerance=0.05, rounds=3))
