"""`[data.images]`: a folder of images, and how they become arrays."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.recipe.base import PositiveFloat, PositiveInt, Section

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class ImagesSection(Section):
    """A folder of images: a folder a class, or for segmentation `images/` beside `masks/`."""

    folder: Annotated[
        str, Field(min_length=1, description="with train/, validation/, test/ on top these are the splits")
    ]
    size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2, description="[height, width] of the arrays")]
    fit: Annotated[
        Literal["stretch", "crop"],
        Field(description="stretch to the size, or crop to its shape around the centre first"),
    ] = "stretch"
    color: Literal["rgb", "grey"] = "rgb"
    mean: Annotated[
        list[_Finite], Field(min_length=1, max_length=3, description="of pixels from 0 to 1; one, or one a channel")
    ] = [0.0]
    std: Annotated[list[PositiveFloat], Field(min_length=1, max_length=3, description="the same")] = [1.0]
    ignore: Annotated[int | None, Field(ge=0, description="pixels of masks with this number do not count")] = None

    @property
    def channels(self) -> int:
        """3 of colours, 1 of grey."""
        return 3 if self.color == "rgb" else 1

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in {1, self.channels}:
                raise ValueError(f"{key} must have 1 or {self.channels} numbers for {self.color} images")
        return self
