"""What `[distill]` comes down to: the losses in full, and which teachers each of them listens to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.recipe.distillation import LabelsLoss, SoftTargetsLoss, SquaredErrorLoss, TaughtLoss, TeacherSection
from pipeline.recipe.training import AugmentSection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.recipe.distillation import DistillSection, LossSection

CLASS_SCORES: Final = ("classification", "segmentation", "fidelity")
"""Tasks whose first output may hold one score a class on axis 1 (fidelity knows nothing of its model)."""
UNLABELLED: Final = ("fidelity",)
"""Tasks without labels."""
DENSE: Final = TeacherSection(name="dense", dense=True)


def losses_of(distill: DistillSection, task: str) -> Sequence[LossSection]:
    """The losses, those that ``temperature`` and ``alpha`` stand for written out.

    ``alpha`` is the weight of the task's own loss, ``1 - alpha`` that of soft targets; of the squared error where the
    task's outputs are no class scores, and without the task's loss where there are no labels.
    """
    if distill.losses:
        return distill.losses
    if task in UNLABELLED:
        return (SquaredErrorLoss(kind="squared-error"),)
    share = 1 - distill.alpha
    hard = [LabelsLoss(kind="labels", weight=distill.alpha)] if distill.alpha else []
    if not share:
        return hard
    if task in CLASS_SCORES:
        return (*hard, SoftTargetsLoss(kind="soft-targets", weight=share, temperature=distill.temperature))
    return (*hard, SquaredErrorLoss(kind="squared-error", weight=share))


def teachers_of(distill: DistillSection) -> Sequence[TeacherSection]:
    """The teachers, the dense model where none is named."""
    return distill.teachers or (DENSE,)


def heard(loss: LossSection, distill: DistillSection) -> tuple[str, ...]:
    """Names of the teachers that a loss listens to, in the recipe's order."""
    if not isinstance(loss, TaughtLoss):
        return ()
    return tuple(teacher.name for teacher in teachers_of(distill) if loss.of in {"", teacher.name})


def listened_to(distill: DistillSection, task: str) -> list[str]:
    """Names of the teachers that any loss listens to, in the recipe's order."""
    names = {name for loss in losses_of(distill, task) for name in heard(loss, distill)}
    return [teacher.name for teacher in teachers_of(distill) if teacher.name in names]


def teacher_tap(loss: LossSection) -> str:
    """Where a loss taps its teacher; empty where it takes the teacher's answer."""
    return (loss.teacher or loss.student) if isinstance(loss, TaughtLoss) else ""


def answers_alone(name: str, distill: DistillSection, task: str) -> bool:
    """Whether the losses listen to that teacher, and to nothing but its answers."""
    listening = [loss for loss in losses_of(distill, task) if name in heard(loss, distill)]
    return bool(listening) and not any(teacher_tap(loss) for loss in listening)


def repeats(distill: DistillSection) -> bool:
    """Whether every epoch sees the same samples, unchanged: then a teacher's answers stay the same."""
    return distill.augment == AugmentSection()
