"""Data sources and splits. A cached run imports the sources alone, which need no numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.find import find_data
from pipeline.data.images import ImageFolder
from pipeline.data.npz import NpzData
from pipeline.data.source import DataSource, FactoryData

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset, Split

__all__ = ["DataSource", "Dataset", "FactoryData", "ImageFolder", "NpzData", "Split", "find_data"]


def __getattr__(name: str) -> type:
    """`Dataset` and `Split`, imported when first asked for."""
    if name not in {"Dataset", "Split"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.data import dataset

    found = vars(dataset)[name]
    assert isinstance(found, type)
    return found
