"""Data sources and splits."""

from pipeline.data.dataset import Dataset, Split
from pipeline.data.source import DataSource, FactoryData, NpzData

__all__ = ["DataSource", "Dataset", "FactoryData", "NpzData", "Split"]
