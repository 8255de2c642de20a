"""How to train, as plain data: no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.recipe import LearningSection


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples per step; the last, smaller batch of an epoch is used too, unless it
            is a single sample of larger batches.
        optimizer: ``sgd`` with Nesterov momentum 0.9, ``adam`` (decay as an L2 penalty) or ``adamw``.
        learning_rate: Peak, reached after a linear warm-up of one tenth of the steps, then cosine down to zero.
        weight_decay: On weights of two or more dimensions; biases and normalisation are left alone.
        seed: Seed of the order of samples and of dropout.
        threads: torch threads. 1 and 2 give different weights, so the number is configuration.
    """

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int


def train_config(section: LearningSection, *, seed: int, threads: int) -> TrainConfig:
    """The configuration that a section of a recipe asks for.

    Args:
        section: Any section that trains.
        seed: The recipe's.
        threads: The recipe's.
    """
    return TrainConfig(
        epochs=section.epochs,
        batch_size=section.batch_size,
        optimizer=section.optimizer,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        seed=seed,
        threads=threads,
    )
