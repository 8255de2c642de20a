"""How feature maps of two models are laid out, and what makes one comparable with the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import nn
from torch.nn import functional

from pipeline.distillation.base import differ, shape_of
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_CONVOLUTIONS: Final = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_SEQUENCE: Final = 3  # (N, T, C) or (N, C, L): only the shapes can tell


def channel_axis(kind: str, student: Tensor, teacher: Tensor, wanted: int | None) -> int:
    """The axis of the channels, as a positive number.

    It is ``wanted``, or the one axis in which the two differ, or axis 1.

    Args:
        kind: The loss, for messages.
        student: ``(N, C, ...)`` or ``(N, ..., C)``.
        teacher: The same with other channels, perhaps.
        wanted: What the recipe says; None where it does not.

    Raises:
        InputError: They have different numbers of axes, no such axis, or the shapes leave two answers.
    """
    if student.ndim != teacher.ndim:
        raise differ(kind, student, teacher, "tap modules whose outputs have equally many axes")
    if wanted is not None:
        axis = wanted % student.ndim if -student.ndim <= wanted < student.ndim else 0
        if axis == 0:
            raise InputError(
                f"loss {kind!r} has no channels on axis {wanted}",
                f"the student gives {shape_of(student)} per sample, and axis 0 is the batch",
                f"name an axis from 1 to {student.ndim - 1}",
            )
        return axis
    differing = [axis for axis in range(1, student.ndim) if student.shape[axis] != teacher.shape[axis]]
    if len(differing) == 1 and (student.ndim == _SEQUENCE or differing[0] == student.ndim - 1):
        return differing[0]
    if differing and student.ndim == _SEQUENCE:
        raise differ(kind, student, teacher, "say which axis holds the channels: axis = 1 or axis = 2")
    return 1


def projection(student: Tensor, teacher: Tensor, axis: int) -> nn.Module:
    """A learned map from the student's channels to the teacher's; none where they are equally many.

    A convolution of size 1 for channels on axis 1, else a linear layer on the last axis: both the same map, each in its
    own layout.

    Raises:
        InputError: The channels lie on an axis in between.
    """
    narrow, wide = student.shape[axis], teacher.shape[axis]
    if narrow == wide:
        return nn.Identity()
    if axis == student.ndim - 1:
        return nn.Linear(narrow, wide)
    if axis == 1 and student.ndim in _CONVOLUTIONS:
        return _CONVOLUTIONS[student.ndim](narrow, wide, kernel_size=1)
    raise InputError(
        f"{narrow} channels on axis {axis} of {student.ndim} cannot be projected",
        f"the student gives {shape_of(student)} per sample, the teacher {shape_of(teacher)}",
        "channels lie on axis 1 or on the last axis: name one of them",
    )


def check_positions(kind: str, student: Tensor, teacher: Tensor, axis: int, *, resize: bool) -> None:
    """Checks that both have the same positions, or that the teacher's may be resized.

    Raises:
        InputError: They have not, and nobody asked for it; or there is nothing to resize.
    """
    if positions(student, axis) == positions(teacher, axis):
        return
    if not resize:
        raise differ(kind, student, teacher, "tap modules of the same resolution, or set resize = true")
    if axis != 1:
        raise differ(kind, student, teacher, "only maps with channels on axis 1 are resized: tap equally long outputs")


def positions(tensor: Tensor, axis: int) -> Sequence[int]:
    """The sizes of all axes but the batch and the channels."""
    return [size for index, size in enumerate(tensor.shape) if index not in {0, axis}]


def resized(teacher: Tensor, student: Tensor) -> Tensor:
    """The teacher's map ``(N, C, ...)`` in the student's resolution, each value the mean of the area it stands for."""
    size = list(student.shape[2:])
    return teacher if list(teacher.shape[2:]) == size else functional.interpolate(teacher, size=size, mode="area")
