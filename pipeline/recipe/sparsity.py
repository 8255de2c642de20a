"""`[sparsify]`: which single weights become zero."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.recipe.base import PositiveFloat, Section, Share


def _pattern(text: str) -> str:
    kept, _, of = text.partition(":")
    if int(kept) >= int(of):
        raise ValueError(f"{text} keeps all of them: N of M needs N < M, as in 2:4")
    return text


class SparsifySection(Section):
    """Weights of smallest magnitude that become zero, and stay so in all later training."""

    ratio: Annotated[Share | None, Field(description="share of the weights to set to zero")] = None
    threshold: Annotated[
        PositiveFloat | None, Field(description="instead: weights of a smaller magnitude become zero")
    ] = None
    pattern: Annotated[
        Annotated[str, Field(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$"), AfterValidator(_pattern)] | None,
        Field(description="instead: N:M, N kept of M neighbours, where the target computes that faster"),
    ] = None
    scope: Annotated[
        Literal["global", "local"], Field(description="ratio of all weights together, or of each layer")
    ] = "global"
    protect: Annotated[list[str], Field(description="module paths (globs allowed) that stay dense")] = []
