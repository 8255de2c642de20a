"""N:M sparsity: of every M neighbours along the input axis the N largest are kept.

Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR 2021, section 3; the 2:4
pattern of sparse tensor cores: Mishra et al., Accelerating Sparse Deep Neural Networks, 2021, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.sparsity.weights import Mask, Values, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """``kept`` of ``of`` neighbours.

    Attributes:
        kept: N.
        of: M.
    """

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """``2:4``, as a recipe's section has checked it."""
        kept, _, of = text.partition(":")
        return cls(kept=int(kept), of=int(of))

    def fits(self, weight: Weight) -> bool:
        """Whether the input axis is whole groups."""
        return int(weight.values.shape[weight.input_axis]) % self.of == 0

    def holds(self, values: Values, axis: int) -> bool:
        """Whether no group has more than ``kept`` weights that are not zero."""
        counts = np.count_nonzero(self._groups(values, axis), axis=-1)
        return int(counts.max()) <= self.kept

    def mask(self, weight: Weight) -> Mask:
        """The largest of each group; of equal ones the first."""
        groups = self._groups(np.abs(weight.values), weight.input_axis)
        ranks = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
        moved = np.moveaxis(weight.values, weight.input_axis, -1).shape
        return np.ascontiguousarray(np.moveaxis((ranks < self.kept).reshape(moved), -1, weight.input_axis))

    def _groups(self, values: Values, axis: int) -> Values:
        """(..., groups, of)."""
        moved = np.moveaxis(values, axis, -1)
        return moved.reshape(*moved.shape[:-1], -1, self.of)


def by_pattern(weights: Sequence[Weight], pattern: Pattern) -> dict[str, Mask]:
    """Masks of the weights whose input axis is whole groups; the others stay dense.

    Raises:
        InputError: There is none.
    """
    masks = {weight.name: pattern.mask(weight) for weight in weights if pattern.fits(weight)}
    if not masks:
        sizes = sorted({weight.values.shape[weight.input_axis] for weight in weights})
        raise InputError(
            f"no layer can have the pattern {pattern}",
            f"it needs a multiple of {pattern.of} input channels, and layers have {', '.join(map(str, sizes[:8]))}",
            "remove [sparsify], or prune to widths that are multiples",
        )
    return masks
