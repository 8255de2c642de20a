"""The whole loss of a distillation: a weighted sum, as a module whose projections are trained with the student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import torch
from torch import nn

from pipeline.distillation.base import DistillLoss, shape_of
from pipeline.distillation.teachers import mean_answer
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distillation.teachers import Teacher

TaskLoss = Callable[[Sequence["Tensor"], "Tensor"], "Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand.

    Attributes:
        loss: The loss; None for the task's own.
        weight: Its factor.
        student: Number of the student's tap, from 0; None for what it answers.
        teachers: Numbers of the teachers it listens to.
        tap: Number of the tap of the one teacher; None for what teachers answer.
        average: What the answers of several teachers are averaged as.
    """

    loss: DistillLoss | None
    weight: float
    student: int | None = None
    teachers: tuple[int, ...] = ()
    tap: int | None = None
    average: Literal["probabilities", "logits"] = "logits"


@final
class Lesson(nn.Module):
    """``sum of weight * loss``, for `pipeline.training.fit`.

    Args:
        terms: The summands.
        teachers: Who is asked, each once a batch.
        task_loss: ``(outputs, labels) -> scalar``, the task's own.
        taps: How many of the student's tensors are taps: the last ones.
        labels: Labels of the training split: the loop then hands on the samples' numbers in their place, and teachers
            may look their answers up. None: the loop hands on labels.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        teachers: Sequence[Teacher],
        task_loss: TaskLoss,
        *,
        taps: int,
        labels: Tensor | None,
    ) -> None:
        super().__init__()
        self.losses: Final = nn.ModuleList(term.loss for term in terms if term.loss is not None)
        self._terms: Final = tuple(terms)
        self._teachers: Final = tuple(teachers)  # no modules of this one: they are never trained
        self._task_loss: Final = task_loss
        self._taps: Final = taps
        self._labels: Final = labels
        self._heard: tuple[Mapping[str, Tensor], Mapping[int, Sequence[Tensor]]] | None = None
        self._told: Final = sorted({number for term in terms for number in term.teachers})

    def forward(self, inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The loss of a batch.

        Args:
            inputs: Of the student, by name.
            labels: The labels, or the samples' numbers.
            outputs: Of the student, then its taps.
        """
        rows = None if self._labels is None else labels
        known = labels if self._labels is None else self._labels[labels.cpu()].to(labels.device)
        told = self._hear(inputs, rows)
        return _sum(term.weight * self._value(term, outputs, told, known) for term in self._terms)

    def check(self, inputs: Mapping[str, Tensor], rows: Tensor | None, outputs: Sequence[Tensor]) -> None:
        """Checks every term on a few samples, before anything is trained; makes the projections.

        Raises:
            InputError: A loss cannot compare what student and teacher give; both are named.
        """
        told = self._hear(inputs, rows)
        for term in self._terms:
            if term.loss is not None:
                for student, teacher in self._pairs(term, outputs, told):
                    term.loss.check(student, teacher)

    def _hear(self, inputs: Mapping[str, Tensor], rows: Tensor | None) -> Mapping[int, Sequence[Tensor]]:
        """What the teachers say to a batch; asked once where the loop takes its loss twice (mixup)."""
        if self._heard is None or self._heard[0] is not inputs:
            told = {number: self._teachers[number].tell(inputs, rows) for number in self._told}
            self._heard = (inputs, told)
        return self._heard[1]

    def _value(
        self, term: Term, outputs: Sequence[Tensor], told: Mapping[int, Sequence[Tensor]], labels: Tensor
    ) -> Tensor:
        if term.loss is None:
            return self._task_loss(self._answers(outputs), labels)
        return _sum(term.loss(student, teacher, labels) for student, teacher in self._pairs(term, outputs, told))

    def _pairs(
        self, term: Term, outputs: Sequence[Tensor], told: Mapping[int, Sequence[Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """What one term compares: student's and teacher's."""
        own = self._answers(outputs)
        own = own if term.student is None else [outputs[len(own) + term.student]]
        taught = [self._taught(term, number, told[number]) for number in term.teachers]
        if term.loss is not None and not term.loss.all_outputs:
            own, taught = own[:1], [row[:1] for row in taught]
        if any(len(row) != len(own) for row in taught):
            raise InputError(
                f"loss {_kind(term)!r} cannot compare student and teacher",
                f"the student gives {len(own)} outputs, a teacher {max(len(row) for row in taught)}",
                "give a teacher with the student's outputs, or tap one module of each",
            )
        return [(output, _mean(term, [row[index] for row in taught])) for index, output in enumerate(own)]

    def _answers(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The student's outputs without its taps."""
        return outputs[: len(outputs) - self._taps]

    def _taught(self, term: Term, number: int, told: Sequence[Tensor]) -> Sequence[Tensor]:
        """What a term hears of one teacher: a tap, or all that it answers."""
        outputs = len(told) - self._teachers[number].taps
        return told[:outputs] if term.tap is None else [told[outputs + term.tap]]


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).sum()


def _mean(term: Term, taught: Sequence[Tensor]) -> Tensor:
    """What the teachers say together."""
    if len({tuple(answer.shape[1:]) for answer in taught}) > 1:
        raise InputError(
            f"loss {_kind(term)!r} cannot average its teachers",
            f"they give {', '.join(shape_of(answer) for answer in taught)} per sample",
            "give teachers with equal outputs, or name one with `of`",
        )
    assert term.loss is not None
    return mean_answer(taught, average=term.average, temperature=term.loss.temperature, axis=term.loss.axis or 1)


def _kind(term: Term) -> str:
    return term.loss.kind if term.loss else "labels"
