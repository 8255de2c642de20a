"""What stays whole in a graph, because of which operator, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.pruning.dims import is_labelled, labelled
from pipeline.pruning.labels import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.dims import Layout
    from pipeline.pruning.labels import Flags, Ids, Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A dimension that stays whole, and why.

    Attributes:
        operator: The operator that needs it whole (``layer_norm``), or that has no rule.
        module: Path of the user's module the operator was called in; empty at the top.
        reason: One line.
        units: How many units could have been removed without it.
        parameters: How many elements of the parameters belong to these units.
    """

    operator: str
    module: str
    reason: str
    units: int
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenParts:
    """The labels that an operator kept whole."""

    operator: str
    module: str
    reason: str
    parts: Ids


def on_record(labels: Labels, parameters: Mapping[str, Layout], found: Sequence[FrozenParts]) -> list[Frozen]:
    """The report: units that are one in the end count once, at the first operator that held them."""
    axes = [labels.parts(labelled(dim)[0]) for dims in parameters.values() for dim in dims if is_labelled(dim)]
    told = np.zeros(len(labels), dtype=bool)
    told[WHOLE] = True
    report = []
    for item in found:
        roots = np.unique(labels.parts(item.parts))
        roots = roots[~told[roots]]
        told[roots] = True
        if len(roots):
            held = np.zeros(len(labels), dtype=bool)
            held[roots] = True
            report.append(
                Frozen(
                    operator=item.operator,
                    module=item.module,
                    reason=item.reason,
                    units=len(roots),
                    parameters=_elements(parameters, axes, held),
                )
            )
    return report


def _elements(parameters: Mapping[str, Layout], axes: Sequence[Ids], held: Flags) -> int:
    """Parameter elements with an index of which some part is held."""
    total, remaining = 0, iter(axes)
    for dims in parameters.values():
        size = rest = 1
        for dim in dims:
            if is_labelled(dim):
                indices = next(remaining)
                size *= len(indices)
                rest *= int(np.count_nonzero(~held[indices].any(axis=1)))
            elif isinstance(dim[0], int):
                size, rest = size * dim[0], rest * dim[0]
        total += size - rest
    return total
