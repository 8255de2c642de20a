"""What every stage that trains does: the one loop, bound to a recipe's section, the data, and the run's progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

    from pipeline.data import Dataset
    from pipeline.recipe import LearningSection
    from pipeline.stages.base import Context
    from pipeline.tasks import Task
    from pipeline.training import EpochResult, Loss


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

    Returns:
        Results of the stage: ``curve``.
    """
    from pipeline.training import fit, train_config

    curve = fit(
        model,
        data["train"].bound(names),
        loss,
        train_config(section, seed=seed, threads=threads),
        validate=score or validation_score(data, names, task, threads),
        on_epoch=_epoch_progress(context, section.epochs, task.metric),
        after_step=after_step,
    )
    return {"curve": _curve_of(curve)}


def validation_score(data: Dataset, names: tuple[str, ...], task: Task, threads: int) -> Callable[[GraphModule], float]:
    """A function that scores a graph on the validation split."""
    from pipeline.training import predict

    split = data["validation"].bound(names)

    def score(graph: GraphModule) -> float:
        outputs = predict(graph, split, threads=threads)
        return task.score(outputs, split.labels, outputs)

    return score


def _epoch_progress(context: Context, epochs: int, metric: str) -> Callable[[EpochResult], None]:
    """A function that reports an epoch's figures as progress."""

    def report(result: EpochResult) -> None:
        context.progress(
            result.epoch / epochs,
            f"epoch {result.epoch}/{epochs}",
            loss=result.loss,
            **{metric: result.score},
        )

    return report


def _curve_of(results: Sequence[EpochResult]) -> list[dict[str, float]]:
    """A learning curve as plain data."""
    return [
        {"epoch": r.epoch, "loss": round(r.loss, 6), "accuracy": round(r.score, 6), "lr": round(r.learning_rate, 8)}
        for r in results
    ]
