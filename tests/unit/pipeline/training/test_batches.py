"""Which process gets which samples of a step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.batches import parts_of, steps_of


@given(
    samples=st.integers(1, 60), batch=st.integers(1, 16), accumulate=st.integers(1, 4), world=st.integers(1, 5)
)  # fmt: skip
def test_every_sample_of_a_step_counts_once(samples: int, batch: int, accumulate: int, world: int) -> None:
    """Promise: over all processes each sample weighs the same, whatever the rests; nobody runs a lone sample.

    DDP takes the mean over processes: a part's mean loss, times its weight, must add up to the step's mean.
    """
    order = np.random.default_rng(samples).permutation(samples)
    for step in steps_of(samples, batch, accumulate):
        share = np.zeros(samples)
        for rank in range(world):
            for part in parts_of(step, order, rank=rank, world=world):
                np.add.at(share, part.rows, part.weight / len(part.rows) / world)
                assert world == 1 or len(part.rows) > 1 or samples == 1 or batch == 1
        rows = np.concatenate([order[piece] for piece in step])
        np.testing.assert_allclose(share[rows], 1 / len(rows))
        assert np.count_nonzero(share) == len(rows)


def test_processes_of_a_batch_smaller_than_they_are_many() -> None:
    """Promise: who gets nothing runs the first two with weight 0; who gets one sample runs it twice."""
    (step,) = steps_of(3, 8, 1)
    parts = [parts_of(step, np.arange(3), rank=rank, world=4)[0] for rank in range(4)]
    assert [part.rows.tolist() for part in parts] == [[0, 0], [1, 1], [2, 2], [0, 1]]
    assert [part.weight for part in parts] == [4 / 3, 4 / 3, 4 / 3, 0]
