"""Looks at a model and its data before a recipe is written: what goes in, how large it is, what it is probably for."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.reporting import text
from targets.errors import Fault, InputError, faults_error

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset, Split
    from pipeline.recipe import Recipe
    from pipeline.tasks import Task

_MASK_AXES: Final = 3
_BOX_AXES: Final = 3
_TIMEOUT_S: Final = 600.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found.

    Attributes:
        lines: For people, one a line.
        task: What the labels look like.
        splits: Samples by split.
    """

    lines: tuple[str, ...]
    task: str
    splits: Mapping[str, int]


def survey_data(recipe: Recipe) -> tuple[Dataset, Survey]:
    """Loads the data, and tells of them.

    Raises:
        InputError: They are not there, or not what data should be.
    """
    from pipeline.data.find import find_data

    source = find_data(recipe)
    if isinstance(source, list):
        raise faults_error("the data", source)
    data = source.load()
    counts = {name: len(split) for name, split in data.splits.items()}
    some = next(iter(data.splits.values()))
    inputs = [f"{name or 'input'} {array.dtype} {_shape(array.shape[1:])}" for name, array in some.inputs.items()]
    task = guess_task(some)
    lines = [
        f"data: {', '.join(f'{count} {name}' for name, count in counts.items())}; one sample: {'; '.join(inputs)}",
        f"labels: {_labels(some, task)}",
    ]
    return data, Survey(lines=tuple(lines), task=task, splits=counts)


def survey_model(recipe: Recipe, data: Dataset, task: Task, say: Say = lambda _text: None) -> tuple[str, ...]:
    """Opens the model on the data: its inputs, parameters and multiply-accumulates.

    Raises:
        InputError: It does not load, does not take the data, or its outputs do not fit the task.
    """
    if recipe.model.onnx:
        return _onnx(recipe.resolve(recipe.model.onnx), data)
    return _torch(recipe, data, task, say)


def guess_task(split: Split) -> str:
    """By what the labels look like; ``classification`` unless they speak against it."""
    labels = split.labels
    if labels is None:
        return "fidelity"
    if labels.dtype.kind == "f":
        return "detection" if labels.ndim == _BOX_AXES and labels.shape[-1] >= 5 else "regression"  # noqa: PLR2004 - box and class
    return "segmentation" if labels.ndim >= _MASK_AXES else "classification"


def _labels(split: Split, task: str) -> str:
    labels = split.labels
    if labels is None:
        return "none; the float model is the judge"
    shape = _shape(labels.shape[1:])
    if task in {"classification", "segmentation"}:
        return f"{labels.dtype} {shape}, classes 0 to {int(labels.max())}"
    return f"{labels.dtype} {shape}, {float(labels.min()):.4g} to {float(labels.max()):.4g}"


def _torch(recipe: Recipe, data: Dataset, task: Task, say: Say) -> tuple[str, ...]:
    from pipeline.stages.load import size_of, trace_checked
    from pipeline.torchmodel import load_user_weights, make_model
    from pipeline.usercode import find_factory

    factory = find_factory(recipe.model.factory, recipe.folder, recipe.model.args, "model.factory")
    if isinstance(factory, Fault):
        raise faults_error("the model", [factory])
    model = make_model(factory, recipe.seed)
    if recipe.model.weights:
        load_user_weights(model, recipe.resolve(recipe.model.weights))
    say("tracing the model")
    graph, specs = trace_checked(model, data, task)
    size = size_of(graph, specs)
    inputs = ", ".join(spec.name for spec in specs)
    return (f"model: takes {inputs}; {_size(size)}",)


def _onnx(path: Path, data: Dataset) -> tuple[str, ...]:
    """A stranger's file is read and run in limited children."""
    from pipeline.stages.import_onnx import bind_to_onnx
    from pipeline.stages.inference import save_inputs, served_batch
    from targets.process import call_limited, untrusted

    if not path.is_file():
        raise InputError(f"{path} is no file", "model.onnx names it", "give the path of an ONNX file")
    with tempfile.TemporaryDirectory(prefix="edgepress-init-") as folder:
        read: dict[str, Any] = call_limited(
            "calibration.child_import:import_in_child",
            {"model": str(path.absolute()), "out": folder},
            limits=untrusted(_TIMEOUT_S),
            what=f"reading {path.name}",
        )
        batch = served_batch(read["io"])
        split = bind_to_onnx(data["validation"], read["io"]).take(slice(0, batch))
        save_inputs(Path(folder, "inputs.npz"), split)
        weighed: dict[str, Any] = call_limited(
            "calibration.child_import:weigh_in_child",
            {"model": str(Path(folder, "model.onnx")), "inputs": str(Path(folder, "inputs.npz")), "batch": batch},
            limits=untrusted(_TIMEOUT_S),
            what=f"running {path.name} for the first time",
        )
    ends = [
        f"{item['name']} {item['dtype']} {item['shape']}" for item in (*read["io"]["inputs"], *read["io"]["outputs"])
    ]
    return (f"model: {'; '.join(ends)}", f"model: {_size({'parameters': read['parameters'], **weighed})}")


def _size(size: Mapping[str, Any]) -> str:
    return f"{text.count(size['parameters'])} parameters, {text.count(size['macs'])} multiply-accumulates a sample"


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes)) if math.prod(sizes) != 1 or sizes else "one number"
