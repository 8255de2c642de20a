"""What a training tells: figures of a step and of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Where in a training a step is.

    Attributes:
        epoch: From 1.
        number: Of the step in its epoch, from 1.
        step: From 1, over the whole training.
        place: On the schedule, in steps from 0: ahead of ``step`` where time runs short.
    """

    epoch: int
    number: int
    step: int
    place: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Figures of one optimiser step.

    Attributes:
        epoch: From 1.
        step: From 1, over the whole training.
        loss: Of the step's samples, without regularisation.
        learning_rate: Of groups with factor 1.
        gradient_norm: Before clipping; None with fp16, where it is scaled.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """Figures of one epoch.

    Attributes:
        epoch: From 1.
        loss: Mean training loss.
        learning_rate: At the epoch's end.
        score: What ``validate`` gave, higher is better.
        kept: Whether the model has this epoch's weights in the end; known when the training is over.
    """

    epoch: int
    loss: float
    learning_rate: float
    score: float
    kept: bool = field(default=False, compare=False)
