"""`[prune]`: what is removed from the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import Section, Share


class PruneSection(Section):
    """Structured pruning."""

    ratio: Annotated[Share, Field(description="share of the prunable channels to remove")]
    criterion: Literal["l2"] = "l2"
    scope: Annotated[
        Literal["global", "local"], Field(description="rank channels over the whole net, or per group")
    ] = "local"
    statistics: Annotated[
        Literal["whole", "leave_out"],
        Field(description="channels under a layer norm or mean: left whole, or left out of the statistic"),
    ] = "whole"
    protect: Annotated[list[str], Field(description="module paths (globs allowed) that keep all their channels")] = []
