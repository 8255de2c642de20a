"""What every stage that trains does: the one loop, bound to a recipe's section, the data, and the run's progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.stages.watching import Watch
from targets.memory import memory_guard

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

    from pipeline.data import Dataset, Split
    from pipeline.recipe import LearningSection
    from pipeline.stages.base import Context
    from pipeline.tasks import Task
    from pipeline.torchmodel import InputSpec
    from pipeline.training import EpochResult, Loss


class Learner(Protocol):
    """A stage that trains on labels."""

    @property
    def learning(self) -> LearningSection | None:
        """How."""

    @property
    def task(self) -> Task:
        """What the model is for."""

    @property
    def seed(self) -> int:
        """Seed of the order of samples, of dropout and of augmentation."""

    @property
    def threads(self) -> int:
        """Torch threads."""


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
    name: str = "",
    share: tuple[float, float] = (0.0, 1.0),
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
        name: What progress calls this training, where the stage does more.
        share: How much of the stage is done before and after it.

    Returns:
        Results of the stage: ``curve``; ``learning_rate`` where it was to be found; ``kept_epoch`` (0: the start) and
        ``epochs_run`` where the weights are not those of the last epoch asked for.
    """
    from pipeline.training import find_learning_rate, fit, steps_in, train_config

    config = train_config(section, seed=seed, threads=threads)
    train = _drawn(data["train"].bound(names), section.samples, seed)
    found: dict[str, Any] = {}
    if section.learning_rate == "find":
        context.progress(0.0, "looking for the learning rate")
        config = replace(config, learning_rate=find_learning_rate(model, train, loss, config).learning_rate)
        found["learning_rate"] = config.learning_rate
    steps = steps_in(config, len(train))
    watch = Watch(context, epochs=config.epochs, steps=steps, metric=task.metric, name=name, share=share)
    less = f"set batch_size below {config.batch_size} (accumulate makes up for it), or train on a machine with more"
    with memory_guard("training", less):
        curve = fit(
            model,
            train,
            loss,
            config,
            validate=score or validation_score(data, names, task, threads),
            on_epoch=watch.epoch,
            on_step=watch.step,
            after_step=after_step,
            checkpoints=None if context.unfinished is None else context.unfinished / part,
        )
    kept = next((result.epoch for result in curve if result.kept), 0)
    if kept != config.epochs:
        found |= {"kept_epoch": kept, "epochs_run": len(curve)}
    return {"curve": curve_of(curve), **found}


def learn_labels(
    model: GraphModule, specs: tuple[InputSpec, ...], stage: Learner, data: Dataset, context: Context
) -> dict[str, Any]:
    """Trains the dense model on its labels; what a stage tells of it: score, size, learning curve."""
    from pipeline.stages.load import baseline

    section, task = stage.learning, stage.task
    assert section is not None
    learned = learn(
        model,
        label_loss(task, section),
        section,
        data=data,
        names=tuple(spec.name for spec in specs),
        task=task,
        seed=stage.seed,
        threads=stage.threads,
        context=context,
    )
    return {**baseline(model, specs, data, task, stage.threads), **learned}


def label_loss(task: Task, section: LearningSection) -> Loss:
    """The task's own loss."""
    smoothing = section.label_smoothing
    return lambda _inputs, labels, outputs: task.loss(outputs, labels, label_smoothing=smoothing)


def _drawn(train: Split, samples: int | None, seed: int) -> Split:
    """As many samples as asked for; all where there are no more."""
    import numpy as np

    if samples is None or samples >= len(train):
        return train
    return train.take(np.sort(np.random.default_rng(seed).permutation(len(train))[:samples]))


def validation_score(data: Dataset, names: tuple[str, ...], task: Task, threads: int) -> Callable[[GraphModule], float]:
    """A function that scores a graph on the validation split."""
    from pipeline.training import predict

    split = data["validation"].bound(names)

    def score(graph: GraphModule) -> float:
        outputs = predict(graph, split, threads=threads)
        return task.score(outputs, split.labels, outputs)

    return score


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
