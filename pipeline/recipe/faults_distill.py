"""What is wrong inside `[distill]`, and between it and other sections, though each key is valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pipeline.recipe.distillation import DecoupledLoss, LabelsLoss, SoftTargetsLoss
from pipeline.recipe.lessons import CLASS_SCORES, UNLABELLED
from targets.errors import Fault, nearest

if TYPE_CHECKING:
    from pipeline.recipe.distillation import DistillSection, LossSection, TaughtLoss, TeacherSection
    from pipeline.recipe.document import Recipe

_FEATURES: Final = ("hint", "attention")
_SIMPLE: Final = ("temperature", "alpha")


def distill_faults(recipe: Recipe) -> list[Fault]:
    """What is wrong with the recipe's `[distill]`; nothing where there is none."""
    distill = recipe.distill
    if distill is None:
        return []
    return [
        *_purpose_faults(recipe, distill),
        *_simple_faults(recipe, distill),
        *_teacher_faults(distill),
        *(fault for index, loss in enumerate(distill.losses) for fault in _loss_faults(recipe, distill, loss, index)),
    ]


def _purpose_faults(recipe: Recipe, distill: DistillSection) -> Iterator[Fault]:
    """Somebody must learn, from somebody else."""
    if distill.student and recipe.edits:
        yield Fault(
            where="distill.student",
            what=f"is another model than the one that [{recipe.edits[0]}] changes",
            fix=f"remove [distill.student] to train the changed model, or remove [{'], ['.join(recipe.edits)}]",
        )
    if not recipe.edits and not distill.student and all(teacher.dense for teacher in distill.teachers):
        yield Fault(
            where="distill",
            what="the dense model would learn from itself: nothing was removed from it",
            fix="add [prune], give a [distill.student] or [[distill.teachers]], or remove [distill]",
        )


def _simple_faults(recipe: Recipe, distill: DistillSection) -> Iterator[Fault]:
    """`temperature` and `alpha` are the short form of two losses."""
    given = [key for key in _SIMPLE if key in distill.model_fields_set]
    if "losses" in distill.model_fields_set:
        if not distill.losses:
            yield Fault(
                where="distill.losses",
                what="is an empty list: there is nothing to learn by",
                fix='add [[distill.losses]] with kind = "soft-targets", or remove the key for the default',
            )
        for key in given:
            yield Fault(
                where=f"distill.{key}",
                what="is the short form of [[distill.losses]], which are given too",
                fix=f"remove distill.{key}, and write temperature and weight in the losses",
            )
        return
    if "temperature" in given and recipe.task not in CLASS_SCORES:
        yield Fault(where="distill.temperature", what=_no_scores(recipe), fix="remove it: answers are compared squared")
    if "alpha" in given and recipe.task in UNLABELLED:
        yield Fault(where="distill.alpha", what=_no_labels(recipe), fix="remove it: the teacher alone is listened to")


def _teacher_faults(distill: DistillSection) -> Iterator[Fault]:
    if "teachers" in distill.model_fields_set and not distill.teachers:
        yield Fault(
            where="distill.teachers",
            what="is an empty list: there is nobody to learn from",
            fix="remove the key for the dense model, or add [[distill.teachers]]",
        )
    names = [teacher.name for teacher in distill.teachers]
    for index, teacher in enumerate(distill.teachers):
        where = f"distill.teachers.{index}"
        if teacher.name in names[:index]:
            yield Fault(where=f"{where}.name", what=f"{teacher.name!r} is taken", fix="give each teacher its own name")
        yield from _one_teacher_faults(teacher, where)
    if sum(teacher.dense for teacher in distill.teachers) > 1:
        yield Fault(where="distill.teachers", what="the dense model is there twice", fix="leave one of them out")


def _one_teacher_faults(teacher: TeacherSection, where: str) -> Iterator[Fault]:
    kinds = [key for key in ("dense", "factory", "onnx") if getattr(teacher, key)]
    if len(kinds) != 1:
        yield Fault(
            where=where,
            what="is nobody" if not kinds else f"is {' and '.join(kinds)} at once",
            fix='write dense = true, or factory = "big.py:make_net" with weights, or onnx = "teacher.onnx"',
        )
        return
    if teacher.factory and not teacher.weights:
        yield Fault(
            where=f"{where}.weights",
            what="is missing: a teacher without trained weights teaches noise",
            fix='write weights = "teacher.safetensors"',
        )
    for key in ("args", "weights"):
        if getattr(teacher, key) and not teacher.factory:
            yield Fault(where=f"{where}.{key}", what="is only for a factory", fix=f"remove {key}")


def _loss_faults(recipe: Recipe, distill: DistillSection, loss: LossSection, index: int) -> Iterator[Fault]:
    where = f"distill.losses.{index}"
    if isinstance(loss, LabelsLoss | DecoupledLoss) and recipe.task in UNLABELLED:
        yield Fault(where=where, what=_no_labels(recipe), fix="remove this loss, or use a task with labels")
    if isinstance(loss, LabelsLoss):
        return
    tapped = bool(loss.student or loss.teacher)
    if isinstance(loss, SoftTargetsLoss | DecoupledLoss) and not tapped and recipe.task not in CLASS_SCORES:
        yield Fault(
            where=where,
            what=_no_scores(recipe),
            fix='use kind = "squared-error", or tap the module that gives class scores',
        )
    if loss.kind in _FEATURES and not tapped:
        yield Fault(
            where=where,
            what=f"{loss.kind} compares features, and no module is named",
            fix='write student = "layer3" (and teacher = "...", where it is called otherwise there)',
        )
    yield from _listening_faults(distill, loss, where, tapped=tapped)


def _listening_faults(distill: DistillSection, loss: TaughtLoss, where: str, *, tapped: bool) -> Iterator[Fault]:
    """Which of the teachers a loss listens to."""
    known = {teacher.name: teacher for teacher in distill.teachers}
    if loss.of and loss.of not in known:
        fix = nearest(loss.of, known) if known else "remove it: the dense model is the only teacher"
        yield Fault(where=f"{where}.of", what=f"there is no teacher {loss.of!r}", fix=fix)
        return
    single = loss.of or (next(iter(known)) if len(known) == 1 else "")
    if len(known) > 1 and not single and tapped:
        yield Fault(where=f"{where}.of", what="is missing: several teachers have modules", fix=nearest("", known))
    elif len(known) > 1 and not single and distill.average == "probabilities" and not _takes_probabilities(loss):
        yield Fault(
            where=where,
            what="compares the answers themselves, and the teachers are averaged as probabilities",
            fix='set distill.average = "logits", or name one teacher with `of`',
        )
    if single and known[single].onnx and loss.student and not loss.teacher:
        yield Fault(
            where=f"{where}.teacher",
            what="is missing: an ONNX teacher has tensors, not modules",
            fix="write the name of a tensor of the ONNX file",
        )


def _takes_probabilities(loss: TaughtLoss) -> bool:
    return isinstance(loss, SoftTargetsLoss | DecoupledLoss)


def _no_scores(recipe: Recipe) -> str:
    return f"softens class scores, and the outputs of task `{recipe.task}` are none"


def _no_labels(recipe: Recipe) -> str:
    return f"needs labels, and task `{recipe.task}` has none"
