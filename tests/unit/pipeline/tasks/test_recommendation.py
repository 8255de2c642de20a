"""Recommendation: ranks of candidates, equal scores as if drawn by lot."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_normalized_dcg

from pipeline.data import Dataset, Split
from pipeline.tasks import Recommendation, make_task
from targets.errors import InputError


def task(*metrics: str) -> Recommendation:
    found = make_task("recommendation", metrics[0], metrics[1:])
    assert isinstance(found, Recommendation)
    return found


def values(scores: np.ndarray, labels: np.ndarray, *metrics: str) -> list[float]:
    found = task(*metrics).scores([scores], labels, [])
    return [found["accuracy"], *found["beside"].values()]


@given(seed=st.integers(0, 9999), candidates=st.integers(4, 12), k=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_without_ties_they_are_torchmetrics_own(seed: int, candidates: int, k: int) -> None:
    """Promise: hit rate and NDCG of random relevances equal the library's, row by row."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(candidates * 5).reshape(5, candidates).astype(np.float32)
    labels = rng.integers(0, 3, (5, candidates))
    labels[:, 0] = 1
    found = values(scores, labels, f"ndcg@{k}", f"hit_rate@{k}")
    rows = [(torch.from_numpy(s), torch.from_numpy(y)) for s, y in zip(scores, labels, strict=True)]
    ndcg = np.mean([float(retrieval_normalized_dcg(s, y, top_k=k)) for s, y in rows])
    hits = np.mean([float(retrieval_hit_rate(s, y > 0, top_k=k)) for s, y in rows])
    assert found == pytest.approx([ndcg, hits], abs=1e-6)


@given(data=st.data(), k=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_ties_are_the_mean_over_all_orders(data: st.DataObject, k: int) -> None:
    """Promise: equal scores count as the mean over every order of the candidates, by brute force."""
    scores = np.array(data.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5)), dtype=np.float64)
    labels = np.array(data.draw(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=5, max_size=5)))
    labels[0] = 1
    ideal = sum(gain / np.log2(at + 2) for at, gain in enumerate(sorted(labels[labels > 0], reverse=True)[:k]))
    kept = [at for at in range(5) if labels[at] >= 0]
    hits, gains = [], []
    for order in permutations(kept):
        ranked = sorted(order, key=lambda at: -scores[at])[:k]
        hits.append(any(labels[at] > 0 for at in ranked))
        gains.append(sum(labels[item] / np.log2(at + 2) for at, item in enumerate(ranked)) / ideal)
    found = values(scores[None].astype(np.float32), labels[None], f"ndcg@{k}", f"hit_rate@{k}")
    assert found == pytest.approx([np.mean(gains), np.mean(hits)], abs=1e-9)


def test_a_model_that_scores_all_alike_gains_nothing() -> None:
    """Promise: with the relevant one first in every list, equal scores hit in k of K cases, not always."""
    found = values(np.zeros((7, 20), np.float32), np.zeros(7, np.int64), "hit_rate@5", "ndcg@5")
    assert found[0] == pytest.approx(5 / 20)
    assert values(np.full((7, 20), np.nan, np.float32), np.zeros(7, np.int64), "hit_rate@5")[0] == pytest.approx(0.25)


def test_what_was_seen_is_not_ranked() -> None:
    """Promise: a candidate marked -1 takes no place, however high its score."""
    scores = np.array([[9.0, 8.0, 1.0, 0.0]], np.float32)
    assert values(scores, np.array([[0, 0, 1, 0]]), "hit_rate@1") == [0.0]
    assert values(scores, np.array([[-1, -1, 1, 0]]), "hit_rate@1") == [1.0]


def test_loss_of_a_row_is_that_of_its_number() -> None:
    """Promise: one relevant candidate given as a row is the loss of its number; -1 takes no part in the softmax."""
    scores = torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    row = Recommendation().loss([scores], torch.tensor([[0, 1, 0, -1]]), label_smoothing=0.0)
    number = Recommendation().loss([scores[:, :3]], torch.tensor([1]), label_smoothing=0.0)
    assert float(row) == pytest.approx(float(number), rel=1e-6)


def _checked(made: Dataset) -> None:
    asked = Recommendation(metric="hit_rate@2", beside=())
    asked.check_labels(made)
    asked.check_outputs([np.zeros((2, 4), np.float32)], made)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, -1]), "counted from 0"),
        (np.array([0.5, 1.0]), "float64"),
        (np.array([[0, 0], [0, 1]]), "sample 0"),
        (np.array([0, 4]), "labels - 1"),
        (np.array([[0, 1], [0, 1]]), "relevances of 2"),
    ],
)
def test_labels_that_say_nothing_relevant_are_refused(labels: np.ndarray, words: str) -> None:
    """Promise: negative, broken or empty rows and candidates beyond the model's are named."""
    made = Dataset(splits={"validation": Split(inputs={"": np.zeros((2, 1), np.float32)}, labels=labels)})
    with pytest.raises(InputError, match=words):
        _checked(made)


def test_a_k_that_no_model_misses_is_refused() -> None:
    """Promise: the first 10 of 10 are no measure."""
    made = Dataset(splits={"validation": Split(inputs={"": np.zeros((1, 1), np.float32)}, labels=np.array([0]))})
    with pytest.raises(InputError, match="looks at all candidates"):
        Recommendation().check_outputs([np.zeros((1, 10), np.float32)], made)
