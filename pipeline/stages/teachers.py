"""Opens teachers from artifacts, and tells the user when one of them is no better than who listens to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.artifacts import OnnxModel, TeacherAnswers, TorchModel

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.data.dataset import Array
    from pipeline.distillation import Teacher
    from pipeline.tasks import Task
    from pipeline.usercode import FactoryRef

COMPARED: Final = 2048
"""Training samples on which teachers and student are compared."""
_WEAK: Final = 0.05  # of the better score: a teacher that far behind holds back
_BATCH: Final = 256

Ask = Callable[["Split"], "list[Array]"]


def opener(teacher: TorchModel | OnnxModel, factory: FactoryRef | None, seed: int, threads: int) -> Ask:
    """A function that gives all outputs of a teacher for a split, ``(N, ...)`` each.

    Args:
        teacher: The model.
        factory: Makes it; None for an ONNX file.
        seed: Seed of what the factory draws.
        threads: torch threads; an ONNX file runs in one.
    """
    if isinstance(teacher, OnnxModel):
        from pipeline.stages.import_onnx import bind_to_onnx
        from pipeline.stages.inference import run_onnx

        description = teacher.read_json("io.json")
        return lambda split: list(run_onnx(teacher.model, bind_to_onnx(split, description)).values())
    from pipeline.torchmodel import load_model
    from pipeline.training import predict

    assert factory is not None
    graph, specs, _ = load_model(teacher, factory, seed)
    names = tuple(spec.name for spec in specs)
    return lambda split: predict(graph, split.bound(names), threads=threads)


def open_teacher(
    teacher: TorchModel | OnnxModel,
    answers: TeacherAnswers | None,
    factory: FactoryRef | None,
    *,
    taps: Sequence[str],
    seed: int,
    threads: int,
) -> Teacher:
    """The teacher as the loss asks it: its kept answers where there are any, else the model itself.

    Raises:
        InputError: A tap names nothing in it.
    """
    from pipeline.distillation import GraphTeacher, KeptTeacher, OnnxTeacher

    if answers is not None and answers.results["kept"] and not taps:
        from safetensors.torch import load_file

        kept = load_file(answers.file)
        return KeptTeacher([kept[name] for name in sorted(kept, key=int)])
    if isinstance(teacher, OnnxModel):
        return OnnxTeacher(teacher.model, taps, threads)
    from pipeline.torchmodel import load_model

    assert factory is not None
    graph, specs, _ = load_model(teacher, factory, seed)
    return GraphTeacher(graph, tuple(spec.name for spec in specs), taps)


def compared_rows(samples: int) -> Array:
    """Numbers of the training samples on which teachers and student are compared, evenly spread."""
    import numpy as np

    return np.unique(np.linspace(0, samples - 1, min(samples, COMPARED)).astype(np.int64))


def teacher_score(teacher: Teacher, train: Split, rows: Array, task: Task, threads: int) -> float:
    """The task's metric of a teacher on some of the training samples.

    Args:
        teacher: Who.
        train: The split, its inputs named as the student's.
        rows: Numbers of the samples.
        task: The task.
        threads: torch threads.
    """
    import numpy as np
    import torch

    from pipeline.training.predicting import torch_threads

    parts = []
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        inputs = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in train.take(some).inputs.items()}
        with torch_threads(threads):
            told = teacher.tell(inputs, torch.from_numpy(some))
        parts.append([answer.numpy() for answer in told[: len(told) - teacher.taps]])
    outputs = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return task.score(outputs, train.take(rows).labels, outputs)


def weak_teachers(teachers: Mapping[str, float], others: Mapping[str, float], metric: str) -> list[dict[str, str]]:
    """A coded warning for each teacher that is much worse on the training data than the best of the others.

    It holds the student back: the student learns its errors. (A teacher that was trained on other data makes
    distillation worse than plain fine-tuning.)

    Args:
        teachers: Score by name, higher is better.
        others: Score of whom they are compared with.
        metric: What the scores are.
    """
    who, best = max(others.items(), key=lambda item: item[1])
    return [
        {
            "code": "W-WEAK-TEACHER",
            "text": f"the teacher {name!r} is much worse on the training data than {who}: it holds the student back",
            "evidence": f"{metric} {score:.4f} against {best:.4f}",
            "fix": "train the teacher on these data first, give the labels more weight, or choose another teacher",
        }
        for name, score in teachers.items()
        if score < best - _WEAK * abs(best)
    ]


def told_losses(losses: Sequence[Any]) -> list[dict[str, Any]]:
    """The terms of a loss, for the report: only what was said."""
    return [loss.model_dump(mode="json", exclude_defaults=True) | {"weight": loss.weight} for loss in losses]
