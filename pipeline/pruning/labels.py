"""Identities of channels: a vectorised union-find over integer label ids, some of which are products of others.

A label is simple, or it is composite: "row i and column j" of a grid, removed when its row or its column is. So the
channels of an attention block's projection are products of a head and of a position within the head, and both can be
removed. Every label comes down to its parts, the simple roots it is made of.
"""

from __future__ import annotations

from typing import Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

WHOLE: Final = 0
"""The label of everything that must stay and is nobody's channel: a label united with it can never be removed."""


@final
class Labels:
    """Disjoint sets of labels. The root of a set is its smallest simple label, or a composite one it was tied to."""

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._left: Ids = np.zeros(1024, dtype=np.int64)  # the two labels a composite one is the product of, else 0
        self._right: Ids = np.zeros(1024, dtype=np.int64)
        self._family: Ids = np.zeros(1024, dtype=np.int64)
        self._stays: Flags = np.zeros(1024, dtype=bool)  # of simple roots
        self._stays[WHOLE] = True
        self._count = 1
        self._families = 0

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int, *, factor: bool = False) -> Ids:
        """``count`` new labels, each alone in its set; ``factor`` says that they are one side of a grid."""
        start, self._count = self._count, self._count + count
        self._grow()
        ids = np.arange(start, self._count, dtype=np.int64)
        self._parent[ids] = ids
        if factor:
            self._families += 1
            self._family[ids] = self._families
        return ids

    def product(self, a: Ids, b: Ids) -> Ids:
        """A composite label for each pair ``a[i], b[i]``: removed when either is."""
        ids = self.fresh(len(a))
        swap = a == WHOLE  # the left part of a composite label is never WHOLE, unless both are
        self._left[ids], self._right[ids] = np.where(swap, b, a), np.where(swap, a, b)
        self._parent[ids[self._left[ids] == WHOLE]] = WHOLE
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

    def parts(self, ids: Ids) -> Ids:
        """The simple roots of each label of a row, the outer factor first, without repeats, padded. (n, parts)."""
        parts = self.find(ids)[:, None]
        while (self._left[parts] != WHOLE).any():
            left, right = self._left[parts], self._right[parts]
            pairs = np.stack([np.where(left != WHOLE, left, parts), right], axis=2)
            parts = self.find(pairs.reshape(len(parts), 2 * parts.shape[1]))
        if parts.shape[1] == 1:
            return parts
        for column in range(1, parts.shape[1]):
            repeated = (parts[:, :column] == parts[:, column : column + 1]).any(axis=1)
            parts[repeated, column] = WHOLE
        parts = np.take_along_axis(parts, np.argsort(parts == WHOLE, axis=1, kind="stable"), axis=1)
        return parts[:, : max(1, int((parts != WHOLE).sum(axis=1).max(initial=0)))]

    def stays(self, ids: Ids) -> Flags:
        """Whether each label of a row can never be removed."""
        return np.asarray(self._stays[self.parts(ids)].all(axis=1))

    def families(self, roots: Ids) -> Ids:
        """Which side of which grid each simple root is; 0 for none."""
        return self._family[roots]

    def freeze(self, ids: Ids) -> None:
        """Make labels stay for ever."""
        self._stays[self.parts(ids)] = True

    def union(self, a: Ids, b: Ids) -> None:
        """Unite ``a[i]`` with ``b[i]`` for every i; the arrays broadcast."""
        pending = [(a, b)]
        while pending:
            a, b = self._apart(*np.broadcast_arrays(*pending.pop()))
            if not len(a):
                continue
            simple = (self._left[a] == WHOLE) & (self._left[b] == WHOLE)
            self._unite_simple(a[simple], b[simple])
            if not simple.all():
                pending.extend(self._unite_composite(a[~simple], b[~simple]))

    # ---- inside

    def _grow(self) -> None:
        if self._count <= len(self._parent):
            return
        more = 2 * self._count - len(self._parent)
        self._parent, self._left, self._right, self._family = (
            np.concatenate([array, np.zeros(more, dtype=np.int64)])
            for array in (self._parent, self._left, self._right, self._family)
        )
        self._stays = np.concatenate([self._stays, np.zeros(more, dtype=bool)])

    def _apart(self, a: Ids, b: Ids) -> tuple[Ids, Ids]:
        """The pairs of roots that differ, each pair once, the smaller first."""
        a, b = self.find(a.ravel()), self.find(b.ravel())
        apart = a != b
        if not apart.any():
            return a[:0], b[:0]
        a, b = a[apart], b[apart]
        pairs = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)]), axis=1)
        return pairs[0], pairs[1]

    def _unite_simple(self, a: Ids, b: Ids) -> None:
        """Simple roots, ``a[i] < b[i]``; what is united with ``WHOLE`` keeps its identity and stays."""
        self._stays[b[a == WHOLE]] = True
        a, b = a[a != WHOLE], b[a != WHOLE]
        stay = self._stays[a] | self._stays[b]
        first = a
        while len(a):
            # a root may be hung below several others at once: the smallest wins, the rest is done in the next turn
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))
            a, b = self.find(a), self.find(b)
            a, b = a[a != b], b[a != b]
        self._stays[self.find(first)[stay]] = True

    def _unite_composite(self, a: Ids, b: Ids) -> list[tuple[Ids, Ids]]:
        """Pairs of which at least one is composite; returns the pairs of labels that have to be united for that."""
        parts_a, parts_b = self.parts(a), self.parts(b)
        counts_a, counts_b = (parts_a != WHOLE).sum(axis=1), (parts_b != WHOLE).sum(axis=1)
        pending: list[tuple[Ids, Ids]] = []
        same = counts_a == counts_b  # row with row, column with column
        width = min(parts_a.shape[1], parts_b.shape[1])
        pending.extend((parts_a[same, column], parts_b[same, column]) for column in range(width))
        self.freeze(np.concatenate([a[counts_b == 0], b[counts_a == 0]]))
        swap = counts_a > counts_b
        many = np.where(swap, a, b)
        few_counts = np.minimum(counts_a, counts_b)
        single = ~same & (few_counts == 1)
        if single.any():
            few_parts = np.where(swap, parts_b[:, 0], parts_a[:, 0])
            pending.extend(self._hang(few_parts[single], many[single]))
        for index in np.flatnonzero(~same & (few_counts > 1)):
            pending.extend(self._unite_unlike(parts_a[index], parts_b[index]))
        return pending

    def _hang(self, simple: Ids, composite: Ids) -> list[tuple[Ids, Ids]]:
        """Simple roots become products; one that would be a part of itself is united with all the parts instead."""
        parts = self.parts(composite)
        circular = (parts == simple[:, None]).any(axis=1)
        pending = [(simple[circular, None], _filled(parts[circular]))] if circular.any() else []
        free = ~circular & ~np.isin(simple, parts)
        if not free.any():
            if not circular.any():  # each is a part of another's product
                return [(simple[:, None], _filled(parts))]
            return [*pending, (simple[~circular], composite[~circular])]
        _, first = np.unique(simple[free], return_index=True)
        chosen = np.flatnonzero(free)[first]
        self.freeze(composite[chosen][self._stays[simple[chosen]]])
        self._parent[simple[chosen]] = self.find(composite[chosen])
        rest = ~circular
        rest[chosen] = False
        return [*pending, (simple[rest], composite[rest])] if rest.any() else pending

    def _unite_unlike(self, a: Ids, b: Ids) -> list[tuple[Ids, Ids]]:
        """Products of unlike length: what they share falls away; a single rest is the other's, else all are one."""
        only_a = a[(a != WHOLE) & ~np.isin(a, b)]
        only_b = b[(b != WHOLE) & ~np.isin(b, a)]
        few, many = (only_a, only_b) if len(only_a) <= len(only_b) else (only_b, only_a)
        if len(few) == 1 and len(many) > 1:
            product = many[:1]
            for part in many[1:]:
                product = self.product(product, np.array([part]))
            return [(few, product)]
        if len(few) == len(many):
            return [(few, many)]
        every = np.concatenate([a[a != WHOLE], b[b != WHOLE]])
        return [(every[:1], every)]


def _filled(parts: Ids) -> Ids:
    """Padding replaced by the first part of the row."""
    return np.where(parts == WHOLE, parts[:, :1], parts)
