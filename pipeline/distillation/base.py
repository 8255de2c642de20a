"""The contract of a distillation loss: what the student gives, beside what the teacher gives, to one figure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class DistillLoss(nn.Module, ABC):
    """One term of a distillation; its own parameters, where it has any, are trained with the student's.

    Every loss is a mean over the samples of the batch, so that its weight means the same for every batch size.

    Attributes:
        kind: Its name in a recipe.
        all_outputs: Compares every output of the models, where nothing is tapped, and not just the first.
        temperature: What it softens logits by; None where it does not.
        axis: The axis of classes or channels; None where the shapes tell.
    """

    kind: ClassVar[str]
    all_outputs: ClassVar[bool] = False
    temperature: float | None = None
    axis: int | None = 1

    @abstractmethod
    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Checks what both give for a few samples, before anything is trained; makes what depends on their shapes.

        Raises:
            InputError: This loss cannot compare them; both shapes are named.
        """

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            student: ``(N, ...)``, with gradient.
            teacher: ``(N, ...)``, without.
            labels: ``(N, ...)``, the task's.
        """


def differ(kind: str, student: Tensor, teacher: Tensor, fix: str) -> InputError:
    """The error of two shapes that a loss cannot compare, without the batch axis."""
    return InputError(
        f"loss {kind!r} cannot compare student and teacher",
        f"the student gives {shape_of(student)} per sample, the teacher {shape_of(teacher)}",
        fix,
    )


def shape_of(tensor: Tensor) -> str:
    """``(64, 8, 8)``: a shape without its batch axis, for messages."""
    return str(tuple(tensor.shape[1:]))
