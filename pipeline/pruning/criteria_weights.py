"""Criteria that look at weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final
from zlib import crc32

import numpy as np

from pipeline.graph.operators import arguments, operator_name
from pipeline.pruning.criteria import Criterion, Evidence, Scores
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import fx

    from pipeline.pruning.groups import Group, Member

_CHUNK = 256  # rows of distances held at a time


@final
class L1Norm(Criterion):
    """The sum of absolute weights that produce a unit.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1, taken over every filter of the unit where
    a residual sum ties several.
    """

    name: ClassVar[str] = "l1"

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        del evidence
        return {group.name: _produced(gm, group, np.abs) for group in groups}


@final
class L2Norm(Criterion):
    """The L2 norm of all weights that produce a unit.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1 (there with the L1 norm, L2 in
    section 4.4), taken over every filter of the unit where a residual sum ties several.
    """

    name: ClassVar[str] = "l2"

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        del evidence
        return {group.name: np.sqrt(_produced(gm, group, np.square)) for group in groups}


@final
class Random(Criterion):
    """Uniform random scores: the baseline that a criterion has to beat.

    Mittal et al., Recovering from Random Pruning, WACV 2018, show how hard a baseline it is after fine-tuning.
    """

    name: ClassVar[str] = "random"

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        del gm
        return {
            group.name: np.random.default_rng((evidence.seed, crc32(group.name.encode()))).random(group.size)
            for group in groups
        }


@final
class BatchNormScale(Criterion):
    """The absolute scale that batch normalisation gives a unit, summed where several do.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, section 3.
    """

    name: ClassVar[str] = "bn_scale"

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        del evidence
        scales = _batch_norm_scales(gm)
        found: dict[str, Scores] = {}
        for group in groups:
            members = [member for member in group.members if member.parameter in scales]
            if not members:
                raise InputError(
                    "criterion 'bn_scale' needs batch normalisation",
                    f"the channels of {group.name} pass through none with a scale",
                    f"protect {group.name!r}, or choose another prune.criterion",
                )
            found[group.name] = _summed(gm, members, group.size, np.abs)
        return found


@final
class GeometricMedian(Criterion):
    """How far a unit's weights are from those of all others: what lies near the middle, others can stand in for.

    He et al., Filter Pruning via Geometric Median, CVPR 2019, equation 6: the sum of Euclidean distances to the other
    filters. Where a residual sum ties several filters, a unit's point is all of them side by side.
    """

    name: ClassVar[str] = "fpgm"

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        del evidence
        return {group.name: self._distances(_points(gm, group)) for group in groups}

    @staticmethod
    def _distances(points: NDArray[np.float64]) -> Scores:  # (units, weights)
        total = np.zeros(len(points), dtype=np.float64)
        lengths = np.square(points).sum(axis=1)
        for start in range(0, len(points), _CHUNK):
            rows = slice(start, start + _CHUNK)
            squares = lengths[rows, None] + lengths[None, :] - 2 * points[rows] @ points.T
            index = np.arange(len(points))[rows]
            squares[index - start, index] = 0.0  # rounding leaves less than nothing
            total[rows] = np.sqrt(np.maximum(squares, 0.0)).sum(axis=1)
        return total


@final
class Lamp(Criterion):
    """A unit's squared weights as a share of those of all units of its group that are no smaller.

    Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, equation 3, with units in the place
    of single weights. The largest unit of each group gets 1: scores compare between groups as they are.
    """

    name: ClassVar[str] = "lamp"
    comparable: ClassVar[bool] = True

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        del evidence
        return {group.name: self._shares(_produced(gm, group, np.square)) for group in groups}

    @staticmethod
    def _shares(squares: Scores) -> Scores:
        order = np.argsort(squares, kind="stable")
        above = np.cumsum(squares[order][::-1])[::-1]
        shares = np.zeros_like(squares)
        shares[order] = np.divide(squares[order], above, out=np.zeros_like(above), where=above > 0)
        return shares


def _produced(gm: fx.GraphModule, group: Group, each: Callable[[Scores], Scores]) -> Scores:
    return _summed(gm, group.producers, group.size, each)


def _summed(gm: fx.GraphModule, members: Sequence[Member], size: int, each: Callable[[Scores], Scores]) -> Scores:
    """The sum of ``each`` weight, over all weights of each unit. (units,)."""
    total = np.zeros(size, dtype=np.float64)
    for member in members:
        rows = each(_rows(gm, member)).sum(axis=1)  # numpy: torch's sums depend on the number of threads
        here = member.units >= 0
        np.add.at(total, member.units[here], rows[here])
    return total


def _rows(gm: fx.GraphModule, member: Member) -> Scores:
    """The member's parameter with its axis first, all else flat. (axis size, rest) float64."""
    tensors = dict(gm.named_parameters(remove_duplicate=False)) | dict(gm.named_buffers(remove_duplicate=False))
    weight = tensors[member.parameter].detach().double().cpu().numpy()
    return np.moveaxis(weight, member.axis, 0).reshape(len(member.units), -1)


def _points(gm: fx.GraphModule, group: Group) -> NDArray[np.float64]:
    """All weights that produce a unit, side by side. (units, weights)."""
    parts = []
    for member in group.producers:
        here = np.flatnonzero(member.units >= 0)
        order = here[np.argsort(member.units[here], kind="stable")]  # a unit occupies every axis equally often
        parts.append(_rows(gm, member)[order].reshape(group.size, -1))
    return np.concatenate(parts, axis=1)


def _batch_norm_scales(gm: fx.GraphModule) -> set[str]:
    """Names of the parameters that batch normalisations multiply by."""
    return {
        str(scale.target)
        for node in gm.graph.nodes
        if operator_name(node) in {"batch_norm", "_native_batch_norm_legit"}
        and (scale := arguments(node).get("weight")) is not None
    }
