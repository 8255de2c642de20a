"""Steps and epochs of a training as progress of its stage."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.stages.watching import Watch, hearing, telling
from pipeline.training import EpochResult, StepResult


def steps(count: int) -> list[StepResult]:
    return [
        StepResult(epoch=1, step=1 + n, loss=0.5, learning_rate=0.1, gradient_norm=None if n else 2.0)
        for n in range(count)
    ]


@pytest.fixture
def told() -> Any:  # noqa: ANN401
    """A context that writes down what it is told."""
    lines: list[Any] = []
    return SimpleNamespace(
        lines=lines,
        step=lambda *place: lines.append(("step", *place)),
        progress=lambda done, text, **values: lines.append(("epoch", done, text, values)),
    )


def test_shares_and_figures(told: Any) -> None:  # noqa: ANN401
    """Promise: a training that is a part of its stage counts as that part."""
    watch = Watch(told, epochs=4, steps=8, metric="map", name="step 1 of 2, ", share=(0.0, 0.5))
    for result in steps(2):
        watch.step(result)
    watch.epoch(EpochResult(epoch=1, loss=0.5, learning_rate=0.1, score=0.25))
    assert told.lines == [
        ("step", 0.0625, 1, 8, 1, {"loss": 0.5, "learning_rate": 0.1, "gradient_norm": 2.0}),
        ("step", 0.125, 2, 8, 1, {"loss": 0.5, "learning_rate": 0.1}),
        ("epoch", 0.125, "step 1 of 2, epoch 1/4", {"loss": 0.5, "map": 0.25}),
    ]


def test_a_childs_training_is_watched_as_our_own(told: Any) -> None:  # noqa: ANN401
    """Promise: through JSON the parent's watch gets exactly what the child's loop gave."""
    hear = hearing(lambda begin: Watch(told, epochs=begin["epochs"], steps=begin["steps"], metric=begin["metric"]))

    def tell(message: Any) -> None:  # noqa: ANN401
        hear(json.loads(json.dumps(message)))

    on_epoch, on_step = telling(tell)
    tell({"kind": "begin", "epochs": 2, "steps": 2, "metric": "r2"})
    on_step(steps(1)[0])
    on_epoch(EpochResult(epoch=1, loss=0.5, learning_rate=0.1, score=-0.5))
    assert [line[0] for line in told.lines] == ["step", "epoch"]
    assert told.lines[1][3] == {"loss": 0.5, "r2": -0.5}
