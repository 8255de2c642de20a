"""The union-find agrees with a naive one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning.labels import WHOLE, Labels

COUNT = 30
PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=25)


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(PAIRS, max_size=4))
def test_union_agrees_with_sets(batches: list[list[tuple[int, int]]]) -> None:
    """After any sequence of vectorised unions, the classes are those of merging sets one pair at a time."""
    labels, naive = Labels(), [{i} for i in range(COUNT)]
    ids = np.concatenate([[WHOLE], labels.fresh(COUNT - 1)])
    for batch in batches:
        pairs = np.array(batch, dtype=np.int64).reshape(-1, 2)
        labels.union(ids[pairs[:, 0]], ids[pairs[:, 1]])
        for a, b in batch:
            joined = naive[a] | naive[b]
            for member in joined:
                naive[member] = joined
    assert labels.find(ids).tolist() == [min(members) for members in naive]


def test_frozen_stays_frozen() -> None:
    """What is united with a frozen label is frozen, before and after; growing keeps the classes."""
    labels = Labels()
    a, b = labels.fresh(3), labels.fresh(3)
    labels.freeze(a[:1])
    labels.union(a, b)
    more = labels.fresh(5000)
    assert labels.find(b).tolist() == [WHOLE, *a[1:].tolist()]
    assert labels.find(more).tolist() == more.tolist()
