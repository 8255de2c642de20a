"""Losses on how the samples of a batch lie to one another: widths and architectures need not agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import torch
from torch.nn import functional

from pipeline.distillation.base import DistillLoss
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_NEAR: Final = 1e-6  # of the mean distance: nearer samples count as one, and have no direction to each other
_MOST_TRIPLES: Final = 1 << 27  # half a gigabyte of float32


@final
class RelationalDistance(DistillLoss):
    """Huber loss between the distances of all pairs of samples, each model's in units of its own mean distance.

    Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068, equations 5 to 8.
    """

    kind = "relational-distance"

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Any two shapes."""
        del student, teacher

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of two batches ``(N, ...)``; 0 for a batch of one."""
        del labels
        if len(student) < 2:  # noqa: PLR2004 - a pair
            return student.sum() * 0.0
        pairs = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
        return functional.smooth_l1_loss(_unit_distances(student)[pairs], _unit_distances(teacher)[pairs])


def _unit_distances(features: Tensor) -> Tensor:
    """Distances of all pairs over their mean, ``(N, N)``; all 0 where the samples are equal."""
    rows = features.flatten(1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (len(rows) * (len(rows) - 1))
    return distances / mean.clamp_min(torch.finfo(rows.dtype).tiny)


@final
class RelationalAngle(DistillLoss):
    """Huber loss between the cosines of the angles of all triples of samples.

    Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068, equations 9 and 10. Triples with
    two samples at one place have no angle and count as 0.
    """

    kind = "relational-angle"

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Any two shapes."""
        del student, teacher

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of two batches ``(N, ...)``; 0 for fewer than three samples.

        Raises:
            InputError: The batch has too many triples to hold.
        """
        del labels
        samples = len(student)
        if samples < 3:  # noqa: PLR2004 - a triple
            return student.sum() * 0.0
        if samples**3 > _MOST_TRIPLES:
            raise InputError(
                f"loss {self.kind!r} compares all triples of a batch: {samples} samples have {samples**3:,}",
                f"more than {_MOST_TRIPLES:,} take too much memory",
                "use a batch_size of at most 512, or relational-distance",
            )
        same = torch.eye(samples, dtype=torch.bool, device=student.device)
        triples = ~(same[:, :, None] | same[:, None, :] | same[None, :, :])
        return functional.smooth_l1_loss(_cosines(student)[triples], _cosines(teacher)[triples])


def _cosines(features: Tensor) -> Tensor:
    """``[j, i, k]``: the cosine of the angle at sample ``j`` between ``i`` and ``k``."""
    rows = features.flatten(1)
    rows = rows - rows.mean(0)  # the angles stay, and products of near samples keep their digits
    products = rows @ rows.T
    squares = products.diagonal()
    dots = products[None, :, :] - products[:, :, None] - products[:, None, :] + squares[:, None, None]
    lengths = squares[:, None] + squares[None, :] - 2 * products
    apart = lengths > lengths.mean() * _NEAR**2
    lengths = torch.where(apart, lengths, 1.0).sqrt()
    both = apart[:, :, None] & apart[:, None, :]
    return torch.where(both, dots / (lengths[:, :, None] * lengths[:, None, :]), 0.0)


@final
class SimilarityPreserving(DistillLoss):
    """Squared distance between the two models' tables of how similar the samples of the batch are.

    Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv 1907.09682, equations 1 to 4: rows of
    ``A A^T`` brought to length 1, and the mean over the table's ``N^2`` entries.
    """

    kind = "similarity"

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Any two shapes."""
        del student, teacher

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of two batches ``(N, ...)``."""
        del labels
        return functional.mse_loss(_similarities(student), _similarities(teacher))


def _similarities(features: Tensor) -> Tensor:
    rows = features.flatten(1)
    return functional.normalize(rows @ rows.T)
