"""Takes a labelled dimension apart into the rows and columns of a grid, as a view does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.pruning.labels import WHOLE

if TYPE_CHECKING:
    from pipeline.pruning.labels import Ids, Labels


def split_grid(labels: Labels, ids: Ids, sizes: tuple[int, int]) -> tuple[Ids | None, Ids | None]:
    """Labels of the rows and of the columns of ``ids`` in row-major order; ``None`` where a side must stay whole.

    What is kept of the grid must be a grid again. Labels that differ along rows and columns become products of a
    fresh label for the row and one for the column (the head, and the position within the head).
    """
    _factor(labels, ids, sizes)
    if labels.stays(ids).all():
        return None, None
    rows: list[Ids] = []
    columns: list[Ids] = []
    for part in _columns_of_parts(labels, ids, sizes):
        if not labels.stays(part.ravel()).all():
            (rows if _constant(part, axis=1) else columns).append(part)
    outer = _joined(labels, [part[:, 0] for part in rows])
    inner = _joined(labels, [part[0] for part in columns])
    return outer, inner


def _factor(labels: Labels, ids: Ids, sizes: tuple[int, int]) -> None:
    """See to it that every part of the labels depends on the row alone or on the column alone."""
    for part in _columns_of_parts(labels, ids, sizes):
        if not _constant(part, axis=0) and not _constant(part, axis=1):
            grid = _fresh_grid(labels, sizes)
            labels.union(part.ravel() if (part != WHOLE).all() else ids, grid)
    parts = _columns_of_parts(labels, ids, sizes)
    if all(_constant(part, axis=0) or _constant(part, axis=1) for part in parts):
        return
    flat = labels.parts(ids)  # no grid at all (parts in another order in each row): nothing of it can be told apart
    labels.union(np.where(flat == WHOLE, flat[:, :1], flat), flat[:1, :1])


def _fresh_grid(labels: Labels, sizes: tuple[int, int]) -> Ids:
    rows, columns = labels.fresh(sizes[0], factor=True), labels.fresh(sizes[1], factor=True)
    return labels.product(np.repeat(rows, sizes[1]), np.tile(columns, sizes[0]))


def _columns_of_parts(labels: Labels, ids: Ids, sizes: tuple[int, int]) -> list[Ids]:
    """One grid of simple roots for each part of the labels."""
    parts = labels.parts(ids)
    return [parts[:, column].reshape(sizes) for column in range(parts.shape[1])]


def _constant(grid: Ids, *, axis: int) -> bool:
    return bool((grid == (grid[:, :1] if axis == 1 else grid[:1])).all())


def _joined(labels: Labels, sides: list[Ids]) -> Ids | None:
    if not sides:
        return None
    joined = sides[0]
    for side in sides[1:]:
        joined = labels.product(joined, side)
    return joined
