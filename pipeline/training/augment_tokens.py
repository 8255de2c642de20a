"""Texts: tokens replaced at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def drop(tokens: Array, share: float, mask: int, keep: Sequence[int], rng: np.random.Generator) -> Array:
    """Replaces a random share of the tokens (word dropout: Iyyer et al., ACL 2015, section 3.1).

    Args:
        tokens: ``(N, ..., L)``, whole numbers.
        share: Of those that may be replaced.
        mask: What they become.
        keep: Tokens that stay.
        rng: Chance.
    """
    chosen = (rng.random(tokens.shape) < share) & ~np.isin(tokens, [*keep])
    return np.where(chosen, tokens.dtype.type(mask), tokens)
