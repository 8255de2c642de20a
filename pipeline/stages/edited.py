"""What every stage that edits a torch model ends with: score it beside the dense one, and save it with its edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.stages.load import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch.fx import GraphModule

    from pipeline.data import Dataset, Split
    from pipeline.edits import Edit
    from pipeline.tasks import Task
    from pipeline.torchmodel import InputSpec
    from pipeline.usercode import FactoryRef


@dataclass(frozen=True, slots=True, kw_only=True)
class EditInputs:
    """The model to edit, the dense one it came from, and the data to score with."""

    data: DatasetInfo
    model: TorchModel
    dense: TorchModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model that a stage edits.

    Attributes:
        graph: It, trainable.
        specs: Its inputs.
        edits: What was done to it before.
    """

    graph: GraphModule
    specs: tuple[InputSpec, ...]
    edits: tuple[Edit, ...]


def open_model(src: EditInputs, factory: FactoryRef, seed: int) -> Opened:
    """The model of ``src``."""
    from pipeline.torchmodel import load_model

    graph, specs, edits = load_model(src.model, factory, seed)
    return Opened(graph=graph, specs=specs, edits=edits)


def bound(data: Dataset, split: str, opened: Opened) -> Split:
    """A split with its arrays under the names of the model's inputs."""
    return data[split].bound(tuple(spec.name for spec in opened.specs))


def finish(
    graph: GraphModule,
    edits: Sequence[Edit],
    opened: Opened,
    *,
    src: EditInputs,
    out: Path,
    data: Dataset,
    factory: FactoryRef,
    task: Task,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Saves the edited ``graph``, and gives the results that all such stages have: its score and its size."""
    from pipeline.torchmodel import load_model, save_model
    from pipeline.training import predict

    split = bound(data, "validation", opened)
    same = src.model.digest == src.dense.digest
    dense = opened.graph if same else load_model(src.dense, factory, seed)[0]
    outputs = predict(graph, split, threads=threads)
    reference = predict(dense, split, threads=threads)
    save_model(out, graph, opened.specs, (*opened.edits, *edits))
    return {**task.named(task.score(outputs, split.labels, reference)), **size_of(graph, opened.specs)}
