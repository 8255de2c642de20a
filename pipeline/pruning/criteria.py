"""How much a unit matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

if TYPE_CHECKING:
    from pipeline.pruning.groups import Group, Member

Scores: TypeAlias = NDArray[np.float64]


class Criterion(ABC):
    """Scores the units of a group; the lowest go first."""

    def score(self, gm: fx.GraphModule, group: Group) -> Scores:
        """Importance of each unit, at least 0. (units,) float64."""
        scores = self._score(gm, group)
        assert scores.shape == (group.size,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all(), f"scores of {group.name} are not finite"
        return scores

    @abstractmethod
    def _score(self, gm: fx.GraphModule, group: Group) -> Scores:
        """See `score`."""


@final
class L2Norm(Criterion):
    """The L2 norm of all weights that produce a unit.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1 (there with the L1 norm, L2 in
    section 4.4), taken over every filter of the unit where a residual sum ties several.
    """

    def _score(self, gm: fx.GraphModule, group: Group) -> Scores:
        squares = np.zeros(group.size, dtype=np.float64)
        for member in group.producers:
            here = member.units >= 0
            np.add.at(squares, member.units[here], _squares(gm, member)[here])
        return np.sqrt(squares)


CRITERIA: Final[Mapping[str, Criterion]] = MappingProxyType({"l2": L2Norm()})


def _squares(gm: fx.GraphModule, member: Member) -> Scores:
    """Sum of squares of each index of the member's axis. (axis size,)."""
    weight: Tensor = dict(gm.named_parameters(remove_duplicate=False))[member.parameter].detach()
    others = [axis for axis in range(weight.ndim) if axis != member.axis]
    squares = np.square(weight.to(torch.float64).cpu().numpy())
    return np.asarray(squares.sum(axis=tuple(others)))  # numpy: torch's sums depend on the number of threads
