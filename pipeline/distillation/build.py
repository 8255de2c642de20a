"""From a `[distill]` section to the terms of its loss, and to what has to be tapped for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.distillation.features import AttentionTransfer, Hint
from pipeline.distillation.lesson import Term
from pipeline.distillation.logits import Decoupled, SoftTargets, SquaredError
from pipeline.distillation.relations import RelationalAngle, RelationalDistance, SimilarityPreserving
from pipeline.recipe.distillation import LabelsLoss, TaughtLoss
from pipeline.recipe.lessons import heard, listened_to, losses_of, teacher_tap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.distillation.base import DistillLoss
    from pipeline.recipe.distillation import DistillSection, LossSection

_LOSSES: Final[Mapping[str, Callable[..., DistillLoss]]] = {
    loss.kind: loss
    for loss in (
        SoftTargets,
        Decoupled,
        SquaredError,
        Hint,
        AttentionTransfer,
        RelationalDistance,
        RelationalAngle,
        SimilarityPreserving,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """What is learned, by number of tap and of teacher.

    Attributes:
        terms: The summands of the loss.
        student_taps: Module paths in the student.
        teacher_taps: For each teacher that a loss listens to, module paths or names of tensors in it.
    """

    terms: tuple[Term, ...]
    student_taps: tuple[str, ...]
    teacher_taps: Mapping[str, tuple[str, ...]]


def curriculum(distill: DistillSection, task: str) -> Curriculum:
    """The terms that a section asks for; every tap once."""
    names = listened_to(distill, task)
    student_taps: list[str] = []
    teacher_taps: dict[str, list[str]] = {name: [] for name in names}
    terms = []
    for section in losses_of(distill, task):
        loss = make_loss(section)
        if loss is None:
            terms.append(Term(loss=None, weight=section.weight))
            continue
        assert isinstance(section, TaughtLoss)
        listened = heard(section, distill)
        terms.append(
            Term(
                loss=loss,
                weight=section.weight,
                student=_number(section.student, student_taps),
                teachers=tuple(names.index(name) for name in listened),
                tap=_number(teacher_tap(section), teacher_taps[listened[0]]),
                average=distill.average,
            )
        )
    return Curriculum(
        terms=tuple(terms),
        student_taps=tuple(student_taps),
        teacher_taps={name: tuple(taps) for name, taps in teacher_taps.items()},
    )


def _number(path: str, taps: list[str]) -> int | None:
    """The number of a tap, which is added where it is new; None for no tap."""
    if not path:
        return None
    if path not in taps:
        taps.append(path)
    return taps.index(path)


def make_loss(section: LossSection) -> DistillLoss | None:
    """The loss of one section, whose own keys are its arguments; None for the task's own."""
    if isinstance(section, LabelsLoss):
        return None
    return _LOSSES[section.kind](**section.model_dump(exclude={"kind", *TaughtLoss.model_fields}))
