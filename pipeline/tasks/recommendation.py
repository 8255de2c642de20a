"""Recommendation: scores of candidates, ranked. Softmax over the candidates; NDCG decides, ties are never in favour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.tasks.base import Arrays, Task, split_labels
from pipeline.tasks.names import fits, number_in
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset

NO_CANDIDATE: Final = -1
"""Relevance of an item that is not to be ranked for this sample, such as one the user has seen already."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation(Task):
    """The first output holds a score for each of K candidates, ``(N, K)``: the whole catalogue, or a list a sample.

    Labels are the number of the one relevant candidate, ``(N,)``, or the relevance of each, ``(N, K)``: 0 is not
    relevant, more is better, -1 is no candidate. Equal scores count as if ranked at random, in expectation (McSherry
    and Najork, ECIR 2008, section 2): a model that scores all alike gains nothing from the order of its outputs.
    """

    name: ClassVar[str] = "recommendation"
    asks_again: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("ndcg@<k>", "hit_rate@<k>")

    metric: str = "ndcg@10"
    beside: tuple[str, ...] = ("hit_rate@10",)

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Every split says what is relevant, in every row."""
        for name, labels in split_labels(data, self.name, " with what is relevant").items():
            if labels.ndim not in {1, 2} or (labels.ndim == 1 and labels.dtype.kind not in "iu"):
                raise InputError(
                    f"labels of split {name!r} are {labels.dtype} of shape {labels.shape}",
                    "they are candidate numbers (samples,), or relevances (samples, candidates)",
                    "give the number of the relevant candidate, counted from 0, or a row of relevances",
                )
            if labels.ndim == 1 and labels.min() < 0:
                raise InputError(
                    f"split {name!r} has the label {labels.min()}", "candidates are counted from 0", "map them to 0 .."
                )
            if labels.ndim == 2 and not (labels > 0).any(axis=1).all():  # noqa: PLR2004 - (N, K)
                row = int((~(labels > 0).any(axis=1)).argmax())
                raise InputError(
                    f"sample {row} of split {name!r} has nothing relevant",
                    "its rank would mean nothing",
                    "leave such samples out",
                )
        return {}

    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """The first output has a score for every candidate."""
        shape = outputs[0].shape
        if len(shape) != 2:  # noqa: PLR2004 - (N, K)
            raise InputError(
                f"the model's first output has shape {shape}",
                "recommendation needs a score for each candidate: (batch, candidates)",
                "score a list of candidates a sample, or the whole catalogue",
            )
        for name, split in data.splits.items():
            labels = split.labels
            if labels is None:
                continue
            beyond = labels.ndim == 1 and int(labels.max()) >= shape[1]
            if beyond or (labels.ndim == 2 and labels.shape[1] != shape[1]):  # noqa: PLR2004 - (N, K)
                said = f"the label {labels.max()}" if beyond else f"relevances of {labels.shape[1]} candidates"
                raise InputError(
                    f"split {name!r} has {said}",
                    f"the model scores {shape[1]} candidates, counted from 0",
                    "labels that start at 1 need `labels - 1` where the data is made",
                )
        for name in (self.metric, *self.beside):
            if name not in self.functions and number_in(name) >= shape[1]:
                raise InputError(
                    f"metric {name} looks at all candidates",
                    f"the model scores {shape[1]}",
                    "use a smaller k, or score more candidates",
                )

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Softmax cross-entropy over the candidates; relevances are the target's shares."""
        from torch.nn import functional

        scores = outputs[0]
        if labels.ndim == 1:
            return functional.cross_entropy(scores, labels.long(), label_smoothing=label_smoothing)
        scores = scores.masked_fill(labels == NO_CANDIDATE, -1e9)
        share = labels.clamp_min(0).to(scores.dtype)
        return functional.cross_entropy(scores, share / share.sum(1, keepdim=True), label_smoothing=label_smoothing)

    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """``ranking``: the candidates' numbers, best first, ``(N, K)``."""
        return {"ranking": (-outputs[0]).argsort(axis=1, kind="stable")}

    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        del reference
        assert labels is not None
        rows = [_Row.of(scores, label) for scores, label in zip(outputs[0], labels, strict=True)]
        return {
            name: math.fsum(
                row.hit(number_in(name)) if fits(name, "hit_rate@<k>") else row.ndcg(number_in(name)) for row in rows
            )
            / len(rows)
            for name in names
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One sample: of each relevant candidate how many score more, and how many the same, itself included."""

    gains: npt.NDArray[Any]
    above: npt.NDArray[Any]
    tied: npt.NDArray[Any]

    @classmethod
    def of(cls, scores: npt.NDArray[Any], label: npt.NDArray[Any]) -> _Row:
        import numpy as np

        if label.ndim == 0:
            gains, own, ranked = np.ones(1), scores[int(label)][None], scores
        else:
            relevant = label > 0
            gains, own, ranked = label[relevant].astype(np.float64), scores[relevant], scores[label != NO_CANDIDATE]
        ordered = np.sort(np.nan_to_num(ranked, nan=-np.inf))
        own = np.nan_to_num(own, nan=-np.inf)  # what is no number ranks last
        last = np.searchsorted(ordered, own, side="right")
        return cls(gains=gains, above=len(ordered) - last, tied=last - np.searchsorted(ordered, own, side="left"))

    def hit(self, k: int) -> float:
        """How likely one of the relevant is among the first k."""
        best = int(self.above.min())
        places, tied = k - best, int(self.tied[self.above.argmin()])
        if places <= 0:
            return 0.0
        others = tied - int((self.above == best).sum())  # among those that score the same, not relevant
        return 1.0 - math.comb(others, places) / math.comb(tied, places) if places < tied else 1.0

    def ndcg(self, k: int) -> float:
        """Expected discounted gain of the first k, against the best order's."""
        import numpy as np

        reach = int((self.above + self.tied).max())
        places = np.arange(1, max(reach, len(self.gains), k) + 1)
        discount = np.where(places <= k, 1 / np.log2(places + 1), 0.0)
        summed = np.concatenate([[0.0], np.cumsum(discount)])
        expected = (summed[self.above + self.tied] - summed[self.above]) / self.tied
        ideal = np.sort(self.gains)[::-1] @ discount[: len(self.gains)]
        return float(self.gains @ expected / ideal)
