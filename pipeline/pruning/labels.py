"""Identities of channels: a vectorised union-find over integer label ids."""

from __future__ import annotations

from typing import Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]

WHOLE: Final = 0
"""The label of everything that must stay: a label united with it can never be removed."""


@final
class Labels:
    """Disjoint sets of labels; the smallest id of a set is its root, so ``WHOLE`` is the root of its own."""

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._count = 1

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Ids:
        """``count`` new labels, each alone in its set."""
        start, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            grown = np.zeros(2 * self._count, dtype=np.int64)
            grown[:start] = self._parent[:start]
            self._parent = grown
        ids = np.arange(start, self._count, dtype=np.int64)
        self._parent[start : self._count] = ids
        return ids

    def find(self, ids: Ids) -> Ids:
        """The root of each label, same shape as ``ids``."""
        roots: Ids = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[ids] = roots  # path compression
        return roots

    def union(self, a: Ids, b: Ids) -> None:
        """Unite ``a[i]`` with ``b[i]`` for every i; the arrays broadcast."""
        a, b = np.broadcast_arrays(a, b)
        a, b = a.ravel(), b.ravel()
        while True:
            roots_a, roots_b = self.find(a), self.find(b)
            apart = roots_a != roots_b
            if not apart.any():
                return
            a, b = roots_a[apart], roots_b[apart]
            # a root may be hung below several others at once: the smallest wins, the rest is done in the next turn
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))

    def freeze(self, ids: Ids) -> None:
        """Make labels stay for ever."""
        self.union(ids, np.int64(WHOLE))  # type: ignore[arg-type]  # a scalar broadcasts
