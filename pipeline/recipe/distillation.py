"""`[distill]`: recovery with a teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class DistillSection(Section):
    """Fine-tuning of the pruned net with its dense parent as teacher."""

    epochs: PositiveInt
    batch_size: PositiveInt = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.02
    weight_decay: NonNegativeFloat = 5e-4
    temperature: PositiveFloat = 4.0
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the labels; 1 - alpha is the teacher's")] = 0.3
