"""Sparsity: single weights that become zero, and stay zero through whatever trains the model afterwards."""

from __future__ import annotations

from pipeline.sparsity.keep import zero_keeper
from pipeline.sparsity.magnitude import below_threshold, lowest_share
from pipeline.sparsity.pattern import Pattern, by_pattern
from pipeline.sparsity.weights import Weight, find_weights, with_zeros

__all__ = [
    "Pattern",
    "Weight",
    "below_threshold",
    "by_pattern",
    "find_weights",
    "lowest_share",
    "with_zeros",
    "zero_keeper",
]
