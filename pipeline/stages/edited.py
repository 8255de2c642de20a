"""What every stage that edits a torch model does: open it, score what became of it beside the dense one, save it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, final

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.stages.load import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch.fx import GraphModule

    from pipeline.data import Dataset, DataSource, Split
    from pipeline.edits import Edit
    from pipeline.stages.base import Context
    from pipeline.tasks import Task
    from pipeline.tasks.base import Arrays
    from pipeline.usercode import FactoryRef


@dataclass(frozen=True, slots=True, kw_only=True)
class EditInputs:
    """The model to edit, the dense one it came from, and the data to score with."""

    data: DatasetInfo
    model: TorchModel
    dense: TorchModel


class Edits(Protocol):
    """What is asked of a stage that edits."""

    @property
    def factory(self) -> FactoryRef:
        """Makes the model."""

    @property
    def source(self) -> DataSource:
        """The data."""

    @property
    def task(self) -> Task:
        """What the model is for."""

    @property
    def seed(self) -> int:
        """Seed of what the factory draws."""

    @property
    def threads(self) -> int:
        """Torch threads."""


@final
class Workpiece:
    """A model on its way through a stage.

    Args:
        stage: Edits it.
        src: The stage's inputs.
        context: Of the stage.

    Attributes:
        graph: The model as it came, trainable.
        specs: Its inputs.
        edits: What was done to it before.
    """

    def __init__(self, stage: Edits, src: EditInputs, context: Context) -> None:
        from pipeline.torchmodel import load_model

        self._stage, self._src, self._context = stage, src, context
        self.graph, self.specs, self.edits = load_model(src.model, stage.factory, stage.seed)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the model's inputs, in order."""
        return tuple(spec.name for spec in self.specs)

    @cached_property
    def data(self) -> Dataset:
        """The recipe's data."""
        return self._context.data.checked(self._stage.source, self._src.data)

    def split(self, name: str) -> Split:
        """A split with its arrays under the names of the model's inputs."""
        return self.data[name].bound(self.names)

    @property
    def shown(self) -> Split:
        """Training samples; validation samples where there is no such split."""
        return self.split("train" if "train" in self.data.splits else "validation")

    def score(self, graph: GraphModule) -> float:
        """The main metric of ``graph`` on the validation split."""
        from pipeline.training import predict

        split = self.split("validation")
        outputs = predict(graph, split, threads=self._stage.threads)
        return self._stage.task.score(outputs, split.labels, self.reference)

    @cached_property
    def reference(self) -> Arrays:
        """What the dense model gives on the validation split."""
        from pipeline.torchmodel import load_model
        from pipeline.training import predict

        stage, src = self._stage, self._src
        same = src.model.digest == src.dense.digest
        dense = self.graph if same else load_model(src.dense, stage.factory, stage.seed)[0]
        return predict(dense, self.split("validation"), threads=stage.threads)

    def finish(self, graph: GraphModule, edits: Sequence[Edit], out: Path) -> dict[str, Any]:
        """Saves the edited ``graph``, and gives the results that all such stages have: its score and its size."""
        from pipeline.torchmodel import save_model

        save_model(out, graph, self.specs, (*self.edits, *edits))
        return {**self._stage.task.named(self.score(graph)), **size_of(graph, self.specs)}
