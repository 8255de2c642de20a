"""Scores a built engine on a split; what every accuracy of a candidate comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.stages.answers import answers, stands_in
from pipeline.stages.import_onnx import bind_to_onnx
from pipeline.stages.inference import build_engine, in_order, run_onnx

if TYPE_CHECKING:
    from pipeline.artifacts import OnnxModel
    from pipeline.data import Dataset
    from pipeline.tasks import Task
    from targets.profile import TargetProfile


def evaluate(
    engine: Path,
    split_name: str,
    reference: OnnxModel,
    profile: TargetProfile,
    task: Task,
    data: Dataset,
    scratch: Path,
) -> float:
    """The task's metric of the engine on one split; where it does not run here, of its graph by ONNX Runtime.

    Args:
        engine: An engine's folder.
        split_name: Name of the split.
        reference: The uncompressed float model; run only for tasks that compare with it.
        profile: The target with the engine that this one is built for, and the reference is to be.
        task: Its metric counts.
        data: The data set.
        scratch: A folder for files in passing.
    """
    description = reference.read_json("io.json")
    split = bind_to_onnx(data[split_name], description)
    names = [item["name"] for item in description["outputs"]]
    outputs = in_order(answers(engine, split, profile, scratch), names)
    if task.needs_labels:
        return task.score(outputs, split.labels, outputs)
    if stands_in(engine, profile):  # then no engine of that kind answers, and it may have no fp32 at all (a DLA)
        return task.score(outputs, split.labels, in_order(run_onnx(reference.model, split), names))
    float_engine = scratch / "reference"
    if not float_engine.exists():
        build_engine(reference.model, profile, "fp32", float_engine)
    return task.score(outputs, split.labels, in_order(answers(float_engine, split, profile, scratch), names))
