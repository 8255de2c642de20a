"""Losses on what two models answer: soft targets, decoupled soft targets, squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from torch.nn import functional

from pipeline.distillation.base import DistillLoss, differ, shape_of
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float, axis: int = -1) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the batch and all other positions.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2; the factor
    ``T^2`` keeps the gradient's size independent of ``T``.

    Args:
        student: Logits ``(N, classes)`` or ``(N, classes, ...)``, float.
        teacher: The same, without gradient.
        temperature: ``T``, above 0.
        axis: The axis of the classes.
    """
    return _divergence(student / temperature, teacher / temperature, axis) * temperature**2


def _divergence(student: Tensor, teacher: Tensor, axis: int) -> Tensor:
    """Mean over positions of ``KL(softmax(teacher) || softmax(student))``."""
    divergence = functional.kl_div(
        functional.log_softmax(student, dim=axis),
        functional.log_softmax(teacher, dim=axis),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(axis).mean()


@final
class SoftTargets(DistillLoss):
    """`soft_target_loss`: the teacher's probabilities, softened.

    Args:
        temperature: Softens both sides.
        axis: The axis of the classes.
    """

    kind = "soft-targets"
    temperature: float
    axis: int

    def __init__(self, *, temperature: float = 4.0, axis: int = 1) -> None:
        super().__init__()
        self.temperature = temperature
        self.axis = axis

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Equal shapes with at least two classes."""
        check_classes(self.kind, student, teacher, self.axis)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits ``(N, classes, ...)``."""
        del labels
        return soft_target_loss(student, teacher, self.temperature, self.axis)


@final
class Decoupled(DistillLoss):
    """Soft targets in two parts: how sure the teacher is of the right class, and how it ranks the others.

    ``T^2 * (target * KL(b_t || b_s) + others * KL(p_t || p_s))`` with ``b`` the pair (right class, all others) and
    ``p`` the probabilities among the others. With ``target`` 1 and ``others`` the teacher's doubt, its probability of
    all others, this is `SoftTargets`: there the ranking hardly counts where the teacher is sure.

    Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, equation 7.

    Args:
        temperature: Softens both sides.
        target: Weight of the right class' part.
        others: Weight of the other classes' part.
    """

    kind = "decoupled"
    temperature: float

    def __init__(self, *, temperature: float = 4.0, target: float = 1.0, others: float = 8.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.target = target
        self.others = others

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Equal shapes with at least three classes: two leave no others to rank."""
        check_classes(self.kind, student, teacher, 1, least=3)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits ``(N, classes, ...)`` and class numbers ``(N, ...)``."""
        if labels.is_floating_point() or labels.shape != student.shape[:1] + student.shape[2:]:
            raise InputError(
                f"loss {self.kind!r} needs one class number for each answer",
                f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}",
                "give whole numbers from 0, one a sample or a position, or use soft-targets",
            )
        rows, classes = student.movedim(1, -1).flatten(0, -2), student.shape[1]
        right = labels.long().flatten()[:, None]
        wrong = torch.arange(classes - 1, device=student.device).expand(len(rows), -1)
        wrong = wrong + (wrong >= right)  # the class numbers without the right one
        parts = [
            _parts(logits / self.temperature, right, wrong) for logits in (rows, teacher.movedim(1, -1).flatten(0, -2))
        ]
        (binary_student, others_student), (binary_teacher, others_teacher) = parts
        loss = self.target * _divergence(binary_student, binary_teacher, 1)
        loss = loss + self.others * _divergence(others_student, others_teacher, 1)
        return loss * self.temperature**2


def _parts(logits: Tensor, right: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the pair (right class, all others), ``(rows, 2)``, and of the others, ``(rows, classes - 1)``."""
    others = logits.gather(1, wrong)
    pair = torch.cat([logits.gather(1, right), others.logsumexp(1, keepdim=True)], 1)
    return pair, others


@final
class SquaredError(DistillLoss):
    """``sum ||teacher - student||^2``: of logits, or of whatever a model answers.

    Ba, Caruana: Do Deep Nets Really Need to be Deep?, NIPS 2014, arXiv 1312.6184, equation 1 (on logits).

    Args:
        over_batch: ``mean``: of the samples' sums; ``sum``: of them all.
    """

    kind = "squared-error"
    all_outputs = True

    def __init__(self, *, over_batch: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        self.over_batch = over_batch

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Equal shapes."""
        check_equal(self.kind, student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of any two tensors ``(N, ...)`` of one shape."""
        del labels
        total = (teacher - student).square().sum()
        return total / len(student) if self.over_batch == "mean" else total


def check_equal(kind: str, student: Tensor, teacher: Tensor) -> None:
    """Checks that both have one shape.

    Raises:
        InputError: They have not.
    """
    if student.shape[1:] != teacher.shape[1:]:
        raise differ(kind, student, teacher, "give a teacher with the student's outputs, or compare features (`hint`)")


def check_classes(kind: str, student: Tensor, teacher: Tensor, axis: int, *, least: int = 2) -> None:
    """Checks that both have one shape, with enough classes.

    Raises:
        InputError: They have not.
    """
    check_equal(kind, student, teacher)
    if not -student.ndim < axis < student.ndim or axis == 0 or student.shape[axis] < least:
        raise InputError(
            f"loss {kind!r} needs at least {least} classes on axis {axis}",
            f"student and teacher give {shape_of(student)} per sample",
            "a softmax over one value is always 1: use squared-error, or name the axis of the classes",
        )
