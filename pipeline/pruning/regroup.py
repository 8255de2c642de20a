"""How a view redistributes the factors of a tensor's dimensions over new sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from pipeline.pruning.dims import Factor, Layout, Size, is_concrete, is_labelled, plain, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.pruning.propagate import Propagation


def regroup(p: Propagation, node: fx.Node, x: Layout, shape: Sequence[Size]) -> Layout:
    """The layout of ``x`` (sizes in row-major order) viewed as ``shape``; labels that cannot be followed stay whole."""
    if not any(is_labelled(dim) for dim in x):
        return plain(shape)
    atoms = [factor for dim in x for factor in dim if not (isinstance(factor, int) and factor == 1)]
    groups: list[list[Factor]] = []
    for size in shape:
        group = _take(p, node, atoms, size)
        if group is None:
            p.whole(node, x, "views it in a way that cannot be followed")
            return plain(shape)
        groups.append(group)
    while atoms:  # what is left has size 1
        groups[-1].append(atoms.pop(0))
    return tuple(p.join(node, group) for group in groups)


def _take(p: Propagation, node: fx.Node, atoms: list[Factor], size: Size) -> list[Factor] | None:
    """Remove from the front of ``atoms`` factors whose product is ``size``; ``None`` if there are none."""
    group: list[Factor] = []
    if isinstance(size, int) and size == 1:
        if atoms and isinstance(atoms[0], np.ndarray) and len(atoms[0]) == 1:
            group.append(atoms.pop(0))
        return group
    rest: Size = size
    while not _is_one(rest):
        if not atoms:
            return None
        factor = atoms[0]
        quotient = _divide(rest, size_of(factor))
        if quotient is not None:
            group.append(atoms.pop(0))
            rest = quotient
        elif isinstance(rest, int) and is_concrete(factor) and size_of(factor) % rest == 0:
            atoms[:1] = _split(p, factor, rest)
        elif len(atoms) > 1 and is_concrete(factor) and is_concrete(atoms[1]):
            atoms[:2] = p.join(node, atoms[:2])
        else:
            return None
    return group


def _split(p: Propagation, factor: Factor, outer: int) -> tuple[Factor, Factor]:
    size = size_of(factor)
    if isinstance(factor, np.ndarray):
        return p.split(factor, (outer, size // outer))
    return outer, size // outer


def _divide(whole: Size, part: Size) -> Size | None:
    """``whole / part`` where it is exact, else ``None``; either may be symbolic."""
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if whole % part == 0 else None
    if isinstance(whole, int):
        return None
    quotient = (whole.node.expr / (part.node.expr if isinstance(part, torch.SymInt) else part)).cancel()
    if quotient.is_Integer:
        return int(quotient)
    if quotient.as_numer_denom()[1] != 1:
        return None
    symbolic: torch.SymInt = whole.node.shape_env.create_symintnode(quotient, hint=None)
    return symbolic


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1
