"""The user's weights, read as what they are: a stranger's file."""

from pipeline.weights.reading import read_weights

__all__ = ["read_weights"]
