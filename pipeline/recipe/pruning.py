"""`[prune]`: what is removed from the model, how much of it, and in how many steps."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from pipeline.recipe.base import PositiveFloat, PositiveInt, Section, Share
from pipeline.recipe.training import LearningSection

CriterionName = Literal[
    "l1", "l2", "random", "bn_scale", "fpgm", "lamp",
    "taylor", "second_order", "output_sensitivity", "activation_mean",
]  # fmt: skip
LABELLED: Final = frozenset({"taylor", "second_order"})
"""Criteria that look at the loss on labelled training samples."""
SAMPLED: Final = LABELLED | {"output_sensitivity", "activation_mean"}
"""Criteria that look at training samples."""

TARGETS: Final = ("ratio", "macs_ratio", "parameters_ratio", "size_mb", "latency_ratio", "latency_ms")
"""Keys that say how much to remove: a recipe gives exactly one."""


class FineTuneSection(LearningSection):
    """Fine-tuning after each step of pruning."""

    epochs: Annotated[PositiveInt, Field(description="passes over the training split after each step")] = 1
    learning_rate: PositiveFloat = 0.01


class LatencySection(Section):
    """How a latency target is reached."""

    precision: Annotated[
        Literal["auto", "fp32", "int8"],
        Field(description="what engines are measured in; auto: int8 where the target offers it, else fp32"),
    ] = "auto"
    nets: Annotated[int, Field(ge=6, le=64, description="nets of different widths that the table is measured on")] = 12
    rounds: Annotated[int, Field(ge=1, le=3, description="rebuild, measure and correct at most so often")] = 3
    tolerance: Annotated[Share, Field(description="how near the measured latency must come to the target")] = 0.05
    budget_s: Annotated[PositiveFloat, Field(description="wall-clock seconds of one measurement")] = 20.0


class PruneSection(Section):
    """Structured pruning: exactly one of the first six keys says how much."""

    ratio: Annotated[Share | None, Field(description="share of the prunable channels to remove")] = None
    macs_ratio: Annotated[
        Share | None, Field(description="multiply-accumulates to come down to, as a share of the dense model's")
    ] = None
    parameters_ratio: Annotated[
        Share | None, Field(description="parameters to come down to, as a share of the dense model's")
    ] = None
    size_mb: Annotated[
        PositiveFloat | None,
        Field(description="size of all weights to come down to, in 10^6 bytes, as the model holds them (float32)"),
    ] = None
    latency_ratio: Annotated[
        Share | None, Field(description="measured latency to come down to, as a share of the dense engine's")
    ] = None
    latency_ms: Annotated[
        PositiveFloat | None, Field(description="measured latency to come down to, in milliseconds")
    ] = None
    criterion: CriterionName = "l2"
    normalize: Annotated[
        Literal["none", "mean", "max", "sum", "l2"] | None,
        Field(description="figure of its group that each score is divided by; by default what suits the criterion"),
    ] = None
    scope: Annotated[
        Literal["global", "local"], Field(description="rank channels over the whole net, or per group")
    ] = "local"
    statistics: Annotated[
        Literal["whole", "leave_out"],
        Field(description="channels under a layer norm or mean: left whole, or left out of the statistic"),
    ] = "whole"
    samples: Annotated[
        PositiveInt, Field(description="training samples that data-driven criteria look at; by default at most 256")
    ] = 256
    protect: Annotated[list[str], Field(description="module paths (globs allowed) that keep all their channels")] = []
    schedule: Annotated[
        Literal["one_shot", "linear", "cubic"], Field(description="all at once, or in steps with fine-tuning between")
    ] = "one_shot"
    steps: Annotated[int, Field(ge=1, le=100, description="steps of a linear or cubic schedule")] = 1
    batch_norm_batches: Annotated[
        int,
        Field(ge=0, description="batches (of 64) to gather batch-norm statistics from again; 0: none"),
    ] = 0
    finetune: FineTuneSection | None = None
    latency: LatencySection = LatencySection()

    @property
    def by_latency(self) -> bool:
        """Whether the target is a measured latency."""
        return self.latency_ratio is not None or self.latency_ms is not None

    @property
    def learns(self) -> bool:
        """Whether training samples are needed."""
        return self.finetune is not None or self.criterion in SAMPLED or self.batch_norm_batches > 0
