"""The union-find agrees with a naive one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning.factoring import split_grid
from pipeline.pruning.labels import WHOLE, Labels

COUNT = 30
PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=25)


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(PAIRS, max_size=4))
def test_union_agrees_with_sets(batches: list[list[tuple[int, int]]]) -> None:
    """Promise: after any vectorised unions, the classes are those of merging sets one pair at a time."""
    labels, naive = Labels(), [{i} for i in range(COUNT)]
    ids = labels.fresh(COUNT)
    for batch in batches:
        pairs = np.array(batch, dtype=np.int64).reshape(-1, 2)
        labels.union(ids[pairs[:, 0]], ids[pairs[:, 1]])
        for a, b in batch:
            joined = naive[a] | naive[b]
            for member in joined:
                naive[member] = joined
    assert labels.find(ids).tolist() == [min(members) + 1 for members in naive]


def test_frozen_stays_frozen() -> None:
    """Promise: what is united with a frozen label stays, and keeps its identity; growing loses none."""
    labels = Labels()
    a, b = labels.fresh(3), labels.fresh(3)
    labels.freeze(a[:1])
    labels.union(a, b)
    labels.union(a[1:2], np.array([WHOLE]))
    more = labels.fresh(5000)
    assert labels.find(b).tolist() == a.tolist()
    assert labels.stays(b).tolist() == [True, True, False]
    assert labels.find(more).tolist() == more.tolist()
    assert not labels.stays(more).any()


def test_products_have_both_parts() -> None:
    """Promise: a label tied to a product is removed with its row and with its column, and stays when both stay."""
    labels = Labels()
    rows, columns, plain = labels.fresh(2, factor=True), labels.fresh(3, factor=True), labels.fresh(6)
    labels.union(plain, labels.product(np.repeat(rows, 3), np.tile(columns, 2)))
    assert labels.parts(plain).tolist() == [[row, column] for row in rows for column in columns]
    labels.freeze(rows)
    assert not labels.stays(plain).any()
    labels.union(plain[:1], np.array([WHOLE]))
    assert labels.stays(plain).tolist() == [True, False, False, True, False, False]


def _closed(labels: Labels, ids: np.ndarray[tuple[int], np.dtype[np.int64]], removed: set[int]) -> list[bool]:
    return [bool(set(row) & removed) for row in labels.parts(ids).tolist()]


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    unions=st.lists(st.tuples(st.integers(0, 31), st.integers(0, 31)), max_size=12),
    seed=st.integers(0, 99),
)
def test_united_labels_go_together(shape: tuple[int, int], unions: list[tuple[int, int]], seed: int) -> None:
    """Promise: whatever grids are made and whatever is united, labels that were united are removed together."""
    labels = Labels()
    size = shape[0] * shape[1]
    flat = labels.fresh(2 * size)
    for ids, grid in ((flat[:size], shape), (flat[size:], shape[::-1])):
        split_grid(labels, ids, grid)
    pairs = [(flat[a % len(flat)], flat[b % len(flat)]) for a, b in unions]
    for a, b in pairs:
        labels.union(np.array([a]), np.array([b]))
    split_grid(labels, flat[:size], shape[::-1])
    units = np.unique(labels.parts(flat))
    rng = np.random.default_rng(seed)
    removed = {int(unit) for unit in units[units != WHOLE] if rng.random() < 0.3}
    for a, b in pairs:
        assert _closed(labels, np.array([a]), removed) == _closed(labels, np.array([b]), removed)
    for ids, grid in ((flat[:size], shape), (flat[size:], shape[::-1]), (flat[:size], shape[::-1])):
        gone = np.array(_closed(labels, ids, removed)).reshape(grid)
        assert (gone == (gone.all(1)[:, None] | gone.all(0)[None])).all(), "what is kept of a grid is a grid"
