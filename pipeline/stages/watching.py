"""Steps and epochs of a training as progress of its stage."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.stages.base import Context
    from pipeline.training import EpochResult, StepResult


@final
class Watch:
    """Reports steps and epochs.

    Args:
        context: Of the stage.
        epochs: Of the training.
        steps: Of the training.
        metric: What the score of an epoch is.
        name: What it is called, where the stage does more than that.
        share: How much of the stage is done before and after it.
    """

    def __init__(
        self,
        context: Context,
        *,
        epochs: int,
        steps: int,
        metric: str,
        name: str = "",
        share: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._context, self._epochs, self._steps, self._metric = context, epochs, steps, metric
        self._name, self._share = name, share

    def step(self, result: StepResult) -> None:
        """Takes a step."""
        values = {"loss": result.loss, "learning_rate": result.learning_rate}
        if result.gradient_norm is not None:
            values["gradient_norm"] = result.gradient_norm
        self._context.step(self._done(result.step / self._steps), result.step, self._steps, result.epoch, values)

    def epoch(self, result: EpochResult) -> None:
        """Takes an epoch."""
        done = result.epoch / self._epochs
        text = f"{self._name}epoch {result.epoch}/{self._epochs}"
        self._context.progress(self._done(done), text, loss=result.loss, **{self._metric: result.score})

    def _done(self, ratio: float) -> float:
        before, after = self._share
        return before + (after - before) * ratio


def telling(tell: Callable[[Mapping[str, Any]], None]) -> tuple[Callable[[EpochResult], None], Callable[..., None]]:
    """What takes epochs and steps in a child and tells them to its parent, who gives them to `hearing`."""
    return (
        lambda result: tell({"kind": "epoch", "result": asdict(result)}),
        lambda result: tell({"kind": "step", "result": asdict(result)}),
    )


def hearing(watch_for: Callable[[Mapping[str, Any]], Watch]) -> Callable[[Mapping[str, Any]], None]:
    """What takes the messages of a child that trains.

    Args:
        watch_for: Makes the watch, once the child has told of its ``epochs`` and ``steps``.
    """
    from pipeline.training.results import EpochResult, StepResult

    watches: list[Watch] = []

    def hear(message: Mapping[str, Any]) -> None:
        match message["kind"]:
            case "begin":
                watches.append(watch_for(message))
            case "epoch":
                watches[0].epoch(EpochResult(**message["result"]))
            case "step":
                watches[0].step(StepResult(**message["result"]))

    return hear
