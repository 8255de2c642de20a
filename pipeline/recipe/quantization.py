"""`[quantize]`: int8 and other formats."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.recipe.base import PositiveFloat, PositiveInt, Section
from pipeline.recipe.training import QatSection

Algorithm = Literal["spare", "equalize", "smooth", "ranges", "bias", "rounding"]
Format = Literal["fp16", "bf16", "int8-dynamic", "int8-weights", "int4-weights"]


class QuantizeSection(Section):
    """int8: how ranges are measured, what is tried, and what happens below the accuracy floor; and other formats."""

    formats: Annotated[
        Annotated[Literal["auto"], Tag("text")] | Annotated[list[Format], Tag("list")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
        Field(description="beside fp32 and int8; auto: what the target names and this model can gain from; []: none"),
    ] = "auto"

    method: Annotated[
        Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"],
        Field(description="how ranges are chosen; auto: the best of all on held-back samples"),
    ] = "auto"
    algorithms: Annotated[
        Annotated[Literal["auto"], Tag("text")] | Annotated[list[Algorithm], Tag("list")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
        Field(description="what is done beside; auto: what pays on held-back samples; []: nothing"),
    ] = "auto"
    samples: Annotated[int, Field(ge=1, description="calibration samples used, every fifth of them held back")] = 512
    min_samples: Annotated[int, Field(ge=1, description="with fewer samples than this, a warning")] = 100
    observe: Annotated[
        Literal["sampled", "all"],
        Field(description="histograms take one value of each eight, or all; extremes always take all"),
    ] = "sampled"
    memory_mb: Annotated[int, Field(ge=1, description="most activations held at once while calibrating")] = 64
    time_budget_s: Annotated[
        PositiveFloat,
        Field(
            description="no further algorithm is tried after that long; training of the int8 model has as long again"
        ),
    ] = 300.0
    target_snr_db: Annotated[
        float, Field(gt=0, le=100, allow_inf_nan=False, description="good enough: no further algorithm is tried")
    ] = 40.0
    sensitivity: Annotated[
        Literal["off", "auto", "on"],
        Field(description="measure what int8 costs in each layer; auto: where that is little work"),
    ] = "auto"
    qat: Annotated[
        Literal["off", "auto", "on"],
        Field(description="train the int8 model; auto: when it misses the accuracy floor"),
    ] = "auto"
    qat_epochs: Annotated[PositiveInt | None, Field(description="short for training.epochs")] = None
    training: Annotated[QatSection, Field(description="how that training is done")] = QatSection()
    mixed_precision: Annotated[
        Literal["off", "auto"],
        Field(description="auto: layers go back to float, as few as needed, when all else misses the accuracy floor"),
    ] = "auto"
