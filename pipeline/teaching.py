"""Who teaches whom in a recipe: teachers and student, found and hashed, and the nodes of a plan that make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from pipeline.data.source import FileRef, find_file
from pipeline.plan import Node
from pipeline.recipe.distillation import TeacherSection
from pipeline.recipe.lessons import answers_alone, repeats, teachers_of
from pipeline.stages.distill import DistillStage
from pipeline.stages.import_onnx import ImportStage, external_files
from pipeline.stages.load import LoadStage
from pipeline.stages.student import StudentStage
from pipeline.stages.teach import TeachStage
from pipeline.usercode import FactoryRef, find_factory
from targets.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.recipe import Recipe
    from pipeline.recipe.distillation import DistillSection

_MEGABYTE: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """A model that a factory makes.

    Attributes:
        factory: Makes it.
        weights: Its weights; None for an untrained one.
    """

    factory: FactoryRef
    weights: FileRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxTeacher:
    """A teacher in an ONNX file.

    Attributes:
        onnx: The file.
        external: The files that hold its external data.
    """

    onnx: FileRef
    external: tuple[FileRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """Everybody but the recipe's own model.

    Attributes:
        student: Who learns in its place, if anybody.
        teachers: By name, all but the dense model.
    """

    student: Learner | None
    teachers: Mapping[str, Learner | OnnxTeacher]


def find_participants(recipe: Recipe) -> Participants | list[Fault]:
    """Teachers and student of a recipe, found without running anything; all faults where something is not there."""
    if recipe.distill is None:
        return Participants(student=None, teachers={})
    section = recipe.distill.student
    found: dict[str, Learner | OnnxTeacher | list[Fault]] = {
        teacher.name: _find_teacher(recipe, teacher, f"distill.teachers.{index}")
        for index, teacher in enumerate(recipe.distill.teachers)
        if not teacher.dense
    }
    student = (
        _find_learner(recipe, section.factory, section.args, section.weights, "distill.student") if section else None
    )
    faults = [fault for item in (student, *found.values()) if isinstance(item, list) for fault in item]
    if faults or isinstance(student, list):
        return faults
    return Participants(student=student, teachers={n: item for n, item in found.items() if not isinstance(item, list)})


def _find_teacher(recipe: Recipe, teacher: TeacherSection, where: str) -> Learner | OnnxTeacher | list[Fault]:
    if teacher.factory:
        return _find_learner(recipe, teacher.factory, teacher.args, teacher.weights, where)
    onnx = find_file(recipe.resolve(teacher.onnx), f"{where}.onnx")
    if isinstance(onnx, Fault):
        return [onnx]
    external = [find_file(path, f"{where}.onnx") for path in external_files(onnx.path)]
    faults = [item for item in external if isinstance(item, Fault)]
    return faults or OnnxTeacher(onnx=onnx, external=tuple(item for item in external if isinstance(item, FileRef)))


def _find_learner(
    recipe: Recipe, factory: str, args: Mapping[str, Any], weights: str, where: str
) -> Learner | list[Fault]:
    made = find_factory(factory, recipe.folder, args, f"{where}.factory")
    file = find_file(recipe.resolve(weights), f"{where}.weights") if weights else None
    if isinstance(made, Fault) or isinstance(file, Fault):
        return [item for item in (made, file) if isinstance(item, Fault)]
    return Learner(factory=made, weights=file)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The nodes of one distillation.

    Attributes:
        participants: Who takes part beside the recipe's own model.
        distill: The recipe's section.
        common: What every stage is told that scores a torch model; its ``factory`` makes the recipe's own model.
    """

    participants: Participants
    distill: DistillSection
    common: Mapping[str, Any]

    @property
    def factory(self) -> FactoryRef:
        """What makes the student."""
        own: FactoryRef = self.common["factory"]
        return self.participants.student.factory if self.participants.student else own

    def nodes(self, dense: str, before: str) -> list[Node]:
        """Student, teachers and their answers, and last the distillation.

        Args:
            dense: Node of the recipe's own model, whole.
            before: Node of what was made of it so far: it learns, where there is no other student.
        """
        student = self._student()
        teachers = {teacher.name: self._teacher(teacher.name) for teacher in teachers_of(self.distill)}
        names = {name: node.name if node else dense for name, node in teachers.items()}
        answers = [self._answers(name, node) for name, node in names.items() if self._kept(name)]
        stage = DistillStage(
            **{**self.common, "factory": self.factory},
            dense=self.common["factory"],
            distill=_without_paths(self.distill),
            teachers=tuple(self._made_by(name) for name in names),
        )
        distill = Node(
            name="distill",
            title="learn from the dense model" if not self.distill.teachers else "learn from teachers",
            stage=stage,
            inputs={
                "data": "data",
                "student": student.name if student else before,
                "dense": dense,
                "teachers": tuple(names.values()),
                "answers": tuple(node.name for node in answers),
            },
        )
        return [*([student] if student else []), *(node for node in teachers.values() if node), *answers, distill]

    def _student(self) -> Node | None:
        learner = self.participants.student
        if learner is None:
            return None
        common = {**self.common, "factory": learner.factory}
        if learner.weights is None:
            stage: StudentStage | LoadStage = StudentStage(**common)
        else:
            stage = LoadStage(**common, weights=learner.weights)
        return Node(name="student", title="make the student", stage=stage, inputs={"data": "data"})

    def _teacher(self, name: str) -> Node | None:
        """The node that makes a teacher; None for the dense model, which is there."""
        teacher = self.participants.teachers.get(name)
        if teacher is None:
            return None
        if isinstance(teacher, OnnxTeacher):
            stage: ImportStage | LoadStage = ImportStage(
                onnx=teacher.onnx, external=teacher.external, source=self.common["source"], task=self.common["task"]
            )
        else:
            assert teacher.weights is not None
            stage = LoadStage(**{**self.common, "factory": teacher.factory}, weights=teacher.weights)
        return Node(name=f"teacher:{name}", title=f"load the teacher {name}", stage=stage, inputs={"data": "data"})

    def _kept(self, name: str) -> bool:
        """Whether a teacher's answers are the same in every epoch, wanted, and all that is wanted of it."""
        fixed = bool(self.distill.cache_mb) and repeats(self.distill)
        return fixed and answers_alone(name, self.distill, self.common["task"].name)

    def _answers(self, name: str, node: str) -> Node:
        stage = TeachStage(
            factory=self._made_by(name),
            source=self.common["source"],
            seed=self.common["seed"],
            threads=self.common["threads"],
            limit_bytes=self.distill.cache_mb * _MEGABYTE,
        )
        title = f"ask the teacher {name} about the training data"
        return Node(name=f"teach:{name}", title=title, stage=stage, inputs={"data": "data", "teacher": node})

    def _made_by(self, name: str) -> FactoryRef | None:
        """What makes a teacher; None for an ONNX file."""
        teacher = self.participants.teachers.get(name)
        if teacher is None:
            own: FactoryRef = self.common["factory"]
            return own
        return teacher.factory if isinstance(teacher, Learner) else None


def _without_paths(distill: DistillSection) -> DistillSection:
    """The section as a part of a key: who teachers and student are stands in the nodes that make them."""
    teachers = [TeacherSection(name=teacher.name, dense=teacher.dense) for teacher in distill.teachers]
    return distill.model_copy(update={"teachers": teachers, "student": None})
