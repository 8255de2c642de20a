"""Losses on feature maps of two models: hints, and where both look."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn
from torch.nn import functional

from pipeline.distillation.base import DistillLoss, shape_of
from pipeline.distillation.layout import channel_axis, check_positions, projection, resized
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@final
class Hint(DistillLoss):
    """Mean squared error between the teacher's features and the student's, projected where it has other widths.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550,
    equation 3; here the mean over all values, so that the weight is free of the map's size.

    Args:
        axis: The axis of the channels; found by the shapes when None.
        resize: Bring the teacher's map to the student's resolution where they differ.
    """

    kind = "hint"

    def __init__(self, *, axis: int | None = None, resize: bool = False) -> None:
        super().__init__()
        self.axis = axis
        self.resize = resize
        self.projection: nn.Module = nn.Identity()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Equal positions, or asked to resize; makes the projection."""
        axis = channel_axis(self.kind, student, teacher, self.axis)
        check_positions(self.kind, student, teacher, axis, resize=self.resize)
        self.projection = projection(student, teacher, axis)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of feature maps ``(N, C, ...)`` or ``(N, ..., C)``."""
        del labels
        target = resized(teacher, student) if self.resize else teacher
        return functional.mse_loss(self.projection(student), target)


@final
class AttentionTransfer(DistillLoss):
    """Squared distance of two normalised maps of where a layer looks: the sum of squares over its channels.

    Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928, equation 2 with p = 2. It
    needs no projection, for the channels are summed up.

    Args:
        axis: The axis of the channels; found by the shapes when None.
        resize: Bring the teacher's map to the student's resolution where they differ.
    """

    kind = "attention"

    def __init__(self, *, axis: int | None = None, resize: bool = False) -> None:
        super().__init__()
        self.axis = axis
        self.resize = resize
        self._channels = 1

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Maps with positions, equally many or asked to resize."""
        self._channels = channel_axis(self.kind, student, teacher, self.axis)
        if student[0].numel() == student.shape[self._channels]:
            raise InputError(
                f"loss {self.kind!r} has nowhere to look",
                f"the student gives {shape_of(student)} per sample: channels alone, at one position",
                "tap a feature map, before pooling and flattening; or use hint or similarity",
            )
        check_positions(self.kind, student, teacher, self._channels, resize=self.resize)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of feature maps ``(N, C, ...)`` or ``(N, ..., C)``."""
        del labels
        target = resized(teacher, student) if self.resize else teacher
        return (self._map(student) - self._map(target)).square().sum(1).mean()

    def _map(self, features: Tensor) -> Tensor:
        """``(N, positions)``, each row of length 1."""
        return functional.normalize(features.square().sum(self._channels).flatten(1))
