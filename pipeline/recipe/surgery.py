"""`[surgery]`: changes of the model's architecture by hand, at modules named by path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import PositiveInt, Section

Layer = Literal[
    "relu", "relu6", "leaky_relu", "elu", "silu", "hardswish", "gelu", "mish", "sigmoid", "hardsigmoid", "tanh",
    "max_pool", "avg_pool", "layer_norm", "group_norm", "batch_norm",
]  # fmt: skip


class Replacement(Section):
    """One kind of operator that another takes the place of."""

    modules: Annotated[
        list[str], Field(min_length=1, description="module paths (globs allowed) in whose forward it is called")
    ] = ["*"]
    operator: Annotated[Layer, Field(description="what is there")]
    by: Annotated[Layer, Field(description="what comes there")]


class SurgerySection(Section):
    """Parts removed, widths stated, operators replaced."""

    remove: Annotated[
        list[str], Field(description="residual blocks, and modules that give what they take in shape (globs allowed)")
    ] = []
    widths: Annotated[
        dict[str, PositiveInt], Field(description="channels that modules (paths, globs allowed) keep of their outputs")
    ] = {}
    replace: Annotated[list[Replacement], Field(description="operators replaced by others")] = []
