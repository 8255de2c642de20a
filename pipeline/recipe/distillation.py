"""`[distill]`: recovery with a teacher."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.recipe.base import PositiveFloat
from pipeline.recipe.training import LearningSection


class DistillSection(LearningSection):
    """Fine-tuning of the pruned net with its dense parent as teacher."""

    learning_rate: PositiveFloat = 0.02
    temperature: PositiveFloat = 4.0
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the labels; 1 - alpha is the teacher's")] = 0.3
