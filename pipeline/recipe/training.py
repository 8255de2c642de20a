"""`[train]`: one training from scratch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class TrainSection(Section):
    """One training from scratch, when there are no weights yet."""

    epochs: PositiveInt
    batch_size: PositiveInt = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.05
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
