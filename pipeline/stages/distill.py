"""distill: a student learns from teachers, in the one training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import DatasetInfo, OnnxModel, TeacherAnswers, TorchModel
from pipeline.data import DataSource
from pipeline.recipe import DistillSection, LearningSection
from pipeline.recipe.lessons import losses_of, repeats, teachers_of
from pipeline.stages.base import Context, Stage
from pipeline.stages.learning import learn
from pipeline.stages.load import size_of
from pipeline.stages.teachers import compared_rows, open_teacher, opener, teacher_score, told_losses, weak_teachers
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

    from pipeline.data import Dataset, Split
    from pipeline.distillation import Lesson, Teacher

_FEW: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillInputs:
    """Student, teachers, what these answer, the recipe's own model, and the data."""

    data: DatasetInfo
    student: TorchModel
    dense: TorchModel
    teachers: tuple[TorchModel | OnnxModel, ...]
    answers: tuple[TeacherAnswers, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DistillStage(Stage[DistillInputs]):
    """Trains the student by the weighted sum of losses that the section asks for.

    Attributes:
        factory: Makes the student.
        dense: Makes the recipe's own model.
        teachers: For each teacher what makes it; None for an ONNX file.
        source: The data.
        task: What the model is for.
        distill: How to train and by which losses; without paths.
        seed: Seed of the order of samples, of dropout and of projections.
        threads: torch threads.
    """

    name = "distill"
    version = 3
    consumes = DistillInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "lightning-fabric", "onnxruntime", "safetensors")

    factory: FactoryRef
    dense: FactoryRef
    teachers: tuple[FactoryRef | None, ...]
    source: DataSource
    task: Task
    distill: DistillSection
    seed: int
    threads: int

    @property
    def learning(self) -> LearningSection | None:
        """How it trains."""
        return self.distill

    def run(self, src: DistillInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the trained student; returns who taught it, by what, and what to know of them."""
        from pipeline.distillation import Lesson, curriculum
        from pipeline.graph import with_taps
        from pipeline.sparsity import zero_keeper
        from pipeline.torchmodel import load_model, save_model

        data = context.data.checked(self.source, src.data)
        task = self.task
        student, specs, edits = load_model(src.student, self.factory, self.seed)
        names = tuple(spec.name for spec in specs)
        train = data["train"].bound(names)
        plan = curriculum(self.distill, self.task.name)
        tapped = with_taps(student, plan.student_taps) if plan.student_taps else student
        teachers = self._teachers(src, plan.teacher_taps)
        numbered = repeats(self.distill) or train.labels is None
        lesson = Lesson(
            plan.terms,
            tuple(teachers.values()),
            lambda outputs, labels: task.loss(outputs, labels, label_smoothing=self.distill.label_smoothing),
            taps=len(plan.student_taps),
            labels=_labels(train) if numbered else None,
        )
        self._check(lesson, tapped, train, numbered=numbered)
        weak = _Weak(stage=self, src=src, teachers=teachers, train=train, context=context)
        weak.compare({"the student as it starts": student})
        score = self._score(src, data, student, names)
        learned = learn(
            tapped,
            lesson,
            self.distill,
            data=_with_numbers(data) if numbered else data,
            names=names,
            task=self.task,
            seed=self.seed,
            threads=self.threads,
            context=context,
            score=lambda _: score(),
            after_step=zero_keeper(student, edits),
        )
        save_model(out, student, specs, edits)
        weak.compare({"the trained student": student})
        return {
            **task.named(score()),
            **size_of(student, specs),
            **learned,
            "teachers": [{"name": name, f"train_{task.metric}": value} for name, value in weak.scores.items()],
            "losses": told_losses(losses_of(self.distill, self.task.name)),
            "warnings": weak.warnings,
        }

    @property
    def _names(self) -> list[str]:
        return [teacher.name for teacher in teachers_of(self.distill)]

    def _teachers(self, src: DistillInputs, taps: Mapping[str, tuple[str, ...]]) -> dict[str, Teacher]:
        """All that a loss listens to, by name, in the recipe's order."""
        answers = {item.node: item for item in src.answers}
        return {
            name: open_teacher(
                teacher, answers.get(f"teach:{name}"), factory, taps=taps[name], seed=self.seed, threads=self.threads
            )
            for name, teacher, factory in zip(self._names, src.teachers, self.teachers, strict=True)
            if name in taps
        }

    def _score(
        self, src: DistillInputs, data: Dataset, student: GraphModule, names: tuple[str, ...]
    ) -> Callable[[], float]:
        """Scores the student on the validation split; without labels, against the dense model."""
        from pipeline.training import predict

        split = data["validation"].bound(names)
        labelled = self.task.needs_labels
        dense = [] if labelled else opener(src.dense, self.dense, self.seed, self.threads)(data["validation"])

        def score() -> float:
            outputs = predict(student, split, threads=self.threads)
            return self.task.score(outputs, split.labels, outputs if labelled else dense)

        return score

    def _check(self, lesson: Lesson, tapped: GraphModule, train: Split, *, numbered: bool) -> None:
        """Compares student and teachers on a few samples; projections are drawn from the seed."""
        import torch

        from pipeline.graph import flat_outputs, set_training
        from pipeline.training.predicting import torch_threads

        few = train.take(slice(0, _FEW))
        inputs = {name: torch.from_numpy(array.copy()) for name, array in few.inputs.items()}
        set_training(tapped, training=False)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch_threads(self.threads):
            outputs = flat_outputs(tapped(*inputs.values()))
            torch.manual_seed(self.seed)
            lesson.check(inputs, torch.arange(len(few)) if numbered else None, outputs)


@final
class _Weak:
    """Notices a teacher that holds the student back, once."""

    def __init__(
        self,
        *,
        stage: DistillStage,
        src: DistillInputs,
        teachers: Mapping[str, Teacher],
        train: Split,
        context: Context,
    ) -> None:
        self._stage = stage
        self._task = stage.task
        self._rows = compared_rows(len(train))
        self._some = train.take(self._rows)
        self._context = context
        self.warnings: list[dict[str, str]] = []
        self.scores: dict[str, float] = {}
        if not self._task.needs_labels:
            return  # without labels nobody is better than anybody
        context.progress(0.0, f"asking teachers and student about {len(self._rows)} training samples")
        self.scores = {
            name: teacher_score(item, train, self._rows, self._task, stage.threads) for name, item in teachers.items()
        }
        if all(teacher.digest != src.dense.digest for teacher in src.teachers):
            outputs = opener(src.dense, stage.dense, stage.seed, stage.threads)(self._some)
            self._warn({"the dense model": self._task.score(outputs, self._some.labels, outputs)})

    def compare(self, graphs: Mapping[str, GraphModule]) -> None:
        """Compares the teachers with graphs that take the split's inputs."""
        from pipeline.training import predict

        if not self.scores or self.warnings:
            return
        others = {}
        for who, graph in graphs.items():
            outputs = predict(graph, self._some, threads=self._stage.threads)
            others[who] = self._task.score(outputs, self._some.labels, outputs)
        self._warn(others)

    def _warn(self, others: Mapping[str, float]) -> None:
        self.warnings += weak_teachers(self.scores, others, self._task.metric)
        for warning in self.warnings:
            self._context.warn(f"{warning['code']}: {warning['text']} ({warning['evidence']}); {warning['fix']}")


def _labels(train: Split) -> Tensor:
    """The labels, to be looked up by number; zeros where there are none."""
    import torch

    return torch.zeros(len(train)) if train.labels is None else torch.from_numpy(train.labels)


def _with_numbers(data: Dataset) -> Dataset:
    """The same data with the samples' numbers in the place of the training labels."""
    import numpy as np

    train = replace(data["train"], labels=np.arange(len(data["train"])))
    return replace(data, splits={**data.splits, "train": train})
