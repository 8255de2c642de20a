"""What every stage that trains does: the one loop, bound to a recipe's section, the data, and the run's progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

    from pipeline.data import Dataset
    from pipeline.recipe import LearningSection
    from pipeline.stages.base import Context
    from pipeline.tasks import Task
    from pipeline.training import EpochResult, Loss, StepResult


def learn(
    model: nn.Module,
    loss: Loss,
    section: LearningSection,
    *,
    data: Dataset,
    names: tuple[str, ...],
    task: Task,
    seed: int,
    threads: int,
    context: Context,
    after_step: Callable[[], None] | None = None,
    score: Callable[[Any], float] | None = None,
    part: str = "training",
) -> dict[str, Any]:
    """Trains ``model`` in place, as a section asks, and leaves it in evaluation mode.

    Args:
        model: An exported graph; another module with a ``score`` of its own.
        loss: Of one batch, see `pipeline.training.fit`.
        section: How to train.
        data: Has a train and a validation split.
        names: The model's inputs, in order.
        task: What the model is for.
        seed: Seed of the order of samples, of dropout and of augmentation.
        threads: torch threads.
        context: Of the stage.
        after_step: Called after every step of the optimiser.
        score: Of the model, on validation; the task's when None.
        part: A name for this training among those of the stage: an interrupted one is found again by it.

    Returns:
        Results of the stage: ``curve``; ``learning_rate`` where it was to be found; ``kept_epoch`` (0: the start) and
        ``epochs_run`` where the weights are not those of the last epoch asked for.
    """
    from pipeline.training import find_learning_rate, fit, steps_in, train_config

    config = train_config(section, seed=seed, threads=threads)
    train = data["train"].bound(names)
    found: dict[str, Any] = {}
    if section.learning_rate == "find":
        context.progress(0.0, "looking for the learning rate")
        config = replace(config, learning_rate=find_learning_rate(model, train, loss, config).learning_rate)
        found["learning_rate"] = config.learning_rate
    progress = _Progress(context, config.epochs, steps_in(config, len(train)), task.metric)
    curve = fit(
        model,
        train,
        loss,
        config,
        validate=score or validation_score(data, names, task, threads),
        on_epoch=progress.epoch,
        on_step=progress.step,
        after_step=after_step,
        checkpoints=None if context.unfinished is None else context.unfinished / part,
    )
    kept = next((result.epoch for result in curve if result.kept), 0)
    if kept != config.epochs:
        found |= {"kept_epoch": kept, "epochs_run": len(curve)}
    return {"curve": curve_of(curve), **found}


def validation_score(data: Dataset, names: tuple[str, ...], task: Task, threads: int) -> Callable[[GraphModule], float]:
    """A function that scores a graph on the validation split."""
    from pipeline.training import predict

    split = data["validation"].bound(names)

    def score(graph: GraphModule) -> float:
        outputs = predict(graph, split, threads=threads)
        return task.score(outputs, split.labels, outputs)

    return score


@final
class _Progress:
    """Reports steps and epochs, and how long the rest will take."""

    def __init__(self, context: Context, epochs: int, steps: int, metric: str) -> None:
        self._context, self._epochs, self._steps = context, epochs, steps
        self._metric = metric
        self._begin: float | None = None
        self._first = 0

    def step(self, result: StepResult) -> None:
        if self._begin is None:
            self._begin, self._first = time.monotonic(), result.step
        values = {"loss": result.loss, "learning_rate": result.learning_rate}
        if result.gradient_norm is not None:
            values["gradient_norm"] = result.gradient_norm
        self._context.step(result.step, self._steps, result.epoch, values)

    def epoch(self, result: EpochResult) -> None:
        done = result.epoch / self._epochs
        left = ""
        here = self._steps * done - self._first
        if self._begin is not None and here > 0:
            left_s = (time.monotonic() - self._begin) * (self._steps * (1 - done)) / here
            left = f", {left_s:.0f} s left" if left_s >= 1 else ""
        text = f"epoch {result.epoch}/{self._epochs}{left}"
        self._context.progress(done, text, loss=result.loss, **{self._metric: result.score})


def curve_of(results: Sequence[EpochResult]) -> list[dict[str, Any]]:
    """A learning curve as plain data."""
    return [
        {
            "epoch": r.epoch,
            "loss": round(r.loss, 6),
            "accuracy": round(r.score, 6),
            "lr": round(r.learning_rate, 8),
        }
        for r in results
    ]
