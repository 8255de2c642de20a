"""`[train]`, and what every section that trains has in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class LearningSection(Section):
    """How to train: the keys of every section that does (`pipeline.training.train_config` makes a configuration)."""

    epochs: PositiveInt
    batch_size: PositiveInt = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.05
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TrainSection(LearningSection):
    """One training from scratch, when there are no weights yet."""
