"""`[depth]`: how many residual blocks are dropped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import PositiveInt, Section, Share


class DepthSection(Section):
    """Whole residual blocks that go, those first whose removal costs least."""

    blocks: Annotated[PositiveInt | None, Field(description="how many to drop")] = None
    share: Annotated[Share | None, Field(description="instead: which share of the model's residual blocks")] = None
    unit: Annotated[
        Literal["block", "branch"],
        Field(description="block: all residual branches of a module at once; branch: each by itself"),
    ] = "block"
    protect: Annotated[list[str], Field(description="module paths (globs allowed) of blocks that stay")] = []
    samples: Annotated[
        PositiveInt, Field(description="training samples the cost is measured on, as many of them as there are")
    ] = 512
