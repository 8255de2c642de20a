"""Where the model and the data come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.recipe.base import Section, Share
from pipeline.recipe.images import ImagesSection


class ModelSection(Section):
    """Where the model comes from: a Python factory (with weights, or trained by ``[train]``), or an ONNX file."""

    factory: Annotated[
        str, Field(description="`file.py:function` or `package.module:function` that returns an nn.Module")
    ] = ""
    args: Annotated[dict[str, Any], Field(description="keyword arguments of the factory")] = {}
    weights: Annotated[str, Field(description="trained weights: .safetensors, or .pt/.pth holding tensors only")] = ""
    onnx: Annotated[str, Field(description="a float ONNX file instead of a factory; starts at quantize")] = ""


class DataSection(Section):
    """Where the data comes from: a Python factory, an .npz file with arrays named like the inputs, or images."""

    factory: Annotated[str, Field(description="`file.py:function` that returns {split: (inputs, labels)}")] = ""
    args: Annotated[dict[str, Any], Field(description="keyword arguments of the factory")] = {}
    files: Annotated[
        dict[str, str], Field(description="files the factory reads, passed to it as paths by these names")
    ] = {}
    npz: Annotated[
        str, Field(description="arrays named like the inputs, and `labels`; or `train.input`, `train.labels`, ...")
    ] = ""
    images: Annotated[ImagesSection | None, Field(description="a folder of images")] = None
    split: Annotated[
        dict[Literal["train", "calibration", "validation", "test"], Share],
        Field(description="shares of npz or images by split, together 1; the seed is the recipe's"),
    ] = {}
    duplicates: Annotated[
        Literal["refuse", "allow"],
        Field(description="samples in two splits that must not share any: an error, or a warning in the report"),
    ] = "refuse"
