"""The validation split of a recipe, for an engine that stands alone: what accuracy on a device is measured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.benchmarking.accuracy import Labelled
from targets.errors import InputError, faults_error

if TYPE_CHECKING:
    from pipeline.tasks import Task


def validation_of(recipe: Path, engine: Path) -> tuple[Labelled, Task]:
    """All validation samples of a recipe, and its task; runs the recipe's data factory and nothing else of it.

    Args:
        recipe: A recipe's file or folder.
        engine: The folder of an engine that takes those samples.

    Raises:
        InputError: The recipe or its data are not valid, do not fit the engine, or have no labels to score with.
    """
    from pipeline.data.find import find_data
    from pipeline.data.source import DataSource
    from pipeline.recipe import load_recipe
    from pipeline.stages.import_onnx import bind_to_onnx
    from pipeline.tasks import find_task

    loaded = load_recipe(recipe)
    task = find_task(loaded)
    if isinstance(task, list):
        raise faults_error(f"recipe {loaded.name!r}", task)
    if not task.needs_labels:
        raise InputError(
            f"task {task.name!r} cannot score a bundle alone",
            "it compares with the uncompressed model, which no bundle holds",
            "run the recipe with --device, which scores all its candidates there",
        )
    source = find_data(loaded)
    if not isinstance(source, DataSource):
        raise faults_error(f"recipe {loaded.name!r}", source)
    data = source.load()
    task.check_labels(data)
    split = bind_to_onnx(data["validation"], json.loads((engine / "engine.json").read_text(encoding="utf-8")))
    return Labelled(inputs=split.inputs, labels=split.labels), task
