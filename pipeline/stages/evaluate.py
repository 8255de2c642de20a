"""Scores a built engine on a split; what every metric of a candidate comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stages.answers import answers, stands_in
from pipeline.stages.import_onnx import bind_to_onnx
from pipeline.stages.inference import build_engine, in_order, run_onnx

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.artifacts import OnnxModel
    from pipeline.data import Dataset
    from pipeline.tasks import Task
    from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a task scores.

    Attributes:
        outputs: One array per output of the model, ``(N, ...)``.
        labels: ``(N, ...)``, where there are any.
        reference: The uncompressed model's outputs, where the task compares with them; else the same outputs.
    """

    outputs: list[npt.NDArray[Any]]
    labels: npt.NDArray[Any] | None
    reference: list[npt.NDArray[Any]]


def evaluate(
    engine: Path,
    split_name: str,
    reference: OnnxModel,
    profile: TargetProfile,
    task: Task,
    data: Dataset,
    scratch: Path,
) -> float:
    """The task's main metric of the engine on one split; the arguments are those of `answered`."""
    found = answered(engine, split_name, reference, profile, task, data, scratch)
    return task.score(found.outputs, found.labels, found.reference)


def answered(
    engine: Path,
    split_name: str,
    reference: OnnxModel,
    profile: TargetProfile,
    task: Task,
    data: Dataset,
    scratch: Path,
) -> Answered:
    """What the engine answers to one split; where it does not as on its target, its graph does.

    Args:
        engine: An engine's folder.
        split_name: Name of the split.
        reference: The uncompressed float model; run only for tasks that compare with it.
        profile: The target with the engine that this one is built for, and the reference is to be.
        task: Says whether the reference matters.
        data: The data set.
        scratch: A folder for files in passing.
    """
    description = reference.read_json("io.json")
    split = bind_to_onnx(data[split_name], description)
    names = [item["name"] for item in description["outputs"]]
    outputs = in_order(answers(engine, split, profile, scratch), names)
    if task.needs_labels:
        return Answered(outputs=outputs, labels=split.labels, reference=outputs)
    if stands_in(engine, profile):  # then no engine of that kind answers, and it may have no fp32 at all (a DLA)
        expected = in_order(run_onnx(reference.model, split), names)
        return Answered(outputs=outputs, labels=split.labels, reference=expected)
    float_engine = scratch / "reference"
    if not float_engine.exists():
        build_engine(reference.model, profile, "fp32", float_engine)
    expected = in_order(answers(float_engine, split, profile, scratch), names)
    return Answered(outputs=outputs, labels=split.labels, reference=expected)
