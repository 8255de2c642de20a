"""A dimension of a tensor as an ordered product of factors: symbolic (the batch), plain, or labelled.

Canonical form: neighbouring concrete factors are one factor, so a dimension without a symbol has exactly one: an
``int`` when none of its indices carries a label, else an array with the label of each index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from pipeline.pruning.labels import WHOLE, Flags, Ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

Size: TypeAlias = "int | torch.SymInt"
Factor: TypeAlias = "Size | Ids"
Dim: TypeAlias = "tuple[Factor, ...]"
Layout: TypeAlias = "tuple[Dim, ...]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Length:
    """A size in the arguments of an operator that means: as many as are kept of these labels."""

    ids: Ids

    def kept(self, gone: Flags) -> int:
        """The new size, given which labels go."""
        return int(np.count_nonzero(~gone[self.ids]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledSize:
    """A size in the arguments of an operator that is the batch size times as many as are kept of these labels.

    Attributes:
        node: The arithmetic that gives it, with every label counted.
        ids: The labels.
    """

    node: fx.Node
    ids: Ids


def is_concrete(factor: Factor) -> bool:
    """Whether the factor's size is a number, labelled or not."""
    return not isinstance(factor, torch.SymInt)


def size_of(factor: Factor) -> Size:
    """The size of a factor, an ``int`` or a symbolic one."""
    return len(factor) if isinstance(factor, np.ndarray) else factor


def ids_of(dim: Dim) -> Ids:
    """The label of each index of a dimension without symbol; indices without label get ``WHOLE``."""
    (factor,) = dim
    if isinstance(factor, np.ndarray):
        return factor
    assert isinstance(factor, int)
    return np.broadcast_to(np.int64(WHOLE), (factor,))


def labelled(dim: Dim) -> list[Ids]:
    """The label arrays among the factors of a dimension."""
    return [factor for factor in dim if isinstance(factor, np.ndarray)]


def is_labelled(dim: Dim) -> bool:
    """Whether any index of the dimension carries a label."""
    return any(isinstance(factor, np.ndarray) for factor in dim)


def plain(shape: Sequence[Size]) -> Layout:
    """A layout without labels for a shape of ints and symbolic ints."""
    return tuple((size if isinstance(size, torch.SymInt) else int(size),) for size in shape)


def kept_size(dim: Dim) -> int | Length | None:
    """How to write the size of a dimension into an operator: a number, a ``Length``, or ``None`` for a symbolic one."""
    if len(dim) != 1 or isinstance(dim[0], torch.SymInt):
        return None
    return Length(ids=dim[0]) if isinstance(dim[0], np.ndarray) else dim[0]
