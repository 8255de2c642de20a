"""How to train, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.training.augmentation import Augmentation
from pipeline.training.schedules import Schedule
from pipeline.training.scope import Scope

if TYPE_CHECKING:
    from pipeline.recipe import LearningSection


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples per batch, over all processes; the last, smaller batch of an epoch is used too, unless it
            is a single sample of larger batches.
        accumulate: Batches whose gradients make one step.
        optimizer: ``sgd``, ``adam`` (decay as an L2 penalty) or ``adamw``.
        learning_rate: Peak.
        momentum: Of ``sgd``.
        nesterov: Nesterov's form of it.
        weight_decay: L2, on weights of two or more dimensions; biases and normalisation are left alone.
        l1: Weight of the sum of magnitudes of the same weights.
        schedule: Of the learning rate.
        clip_norm: Largest Euclidean norm of all gradients together; None for no bound.
        clip_value: Largest magnitude of each number in a gradient; None for no bound.
        ema_decay: Of an average of the weights, which is what is validated and kept; None for the weights themselves.
        patience: Epochs without a better score after which training stops; None for never.
        keep: Weights of the ``last`` epoch, or of the ``best`` by score, the start included.
        scope: What learns.
        augment: Of the training samples.
        precision: Arithmetic of the pass forward and back; weights stay float32.
        device: ``cpu`` or ``cuda``.
        processes: That train together, see `pipeline.training.hardware`.
        time_budget_s: The schedule is run down by then, and training ends; None for no limit.
        seed: Seed of the order of samples, of dropout and of augmentation.
        threads: torch threads. 1 and 2 give different weights, so the number is configuration.
    """

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int
    accumulate: int = 1
    momentum: float = 0.9
    nesterov: bool = True
    l1: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    clip_norm: float | None = None
    clip_value: float | None = None
    ema_decay: float | None = None
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    scope: Scope = field(default_factory=Scope)
    augment: Augmentation = field(default_factory=Augmentation)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"
    processes: int = 1
    time_budget_s: float | None = None


def train_config(section: LearningSection, *, seed: int, threads: int) -> TrainConfig:
    """The configuration that a section of a recipe asks for.

    A rate that is still to be found (``"find"``) counts as 1.

    Args:
        section: Any section that trains.
        seed: The recipe's.
        threads: The recipe's.
    """
    augment: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in section.augment.model_dump().items()
    }
    return TrainConfig(
        epochs=section.epochs,
        batch_size=section.batch_size,
        accumulate=section.accumulate,
        optimizer=section.optimizer,
        learning_rate=1.0 if section.learning_rate == "find" else section.learning_rate,
        momentum=section.momentum,
        nesterov=section.nesterov,
        weight_decay=section.weight_decay,
        l1=section.l1,
        schedule=Schedule(
            kind=section.schedule,
            warmup_epochs=section.warmup_epochs,
            milestones=None if section.milestones is None else tuple(section.milestones),
            decay_factor=section.decay_factor,
            final_ratio=section.final_ratio,
            decay_from_epoch=section.decay_from_epoch,
            decay_until_epoch=section.decay_until_epoch,
        ),
        clip_norm=section.clip_norm,
        clip_value=section.clip_value,
        ema_decay=section.ema_decay,
        patience=section.patience,
        keep=section.keep or ("best" if section.patience else "last"),
        scope=Scope(train_only=tuple(section.train_only), rates=section.rates, batch_norm=section.batch_norm),
        augment=Augmentation(**augment),
        precision=section.precision,
        device=section.device,
        processes=section.processes,
        seed=seed,
        threads=threads,
    )
