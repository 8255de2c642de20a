"""train: the user's model trained from scratch, when there are no weights yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import TorchModel
from pipeline.data import DataSource
from pipeline.recipe import LearningSection, TrainSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.learning import learn_labels
from pipeline.stages.load import LoadInputs, trace_checked
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStage(Stage[LoadInputs]):
    """Trains the dense model.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        train: How to train.
        seed: Seed of initial weights, order of samples and dropout.
        threads: torch threads.
    """

    name = "train"
    version = 2
    consumes = LoadInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "lightning-fabric")

    factory: FactoryRef
    source: DataSource
    task: Task
    train: TrainSection
    seed: int
    threads: int

    @property
    def learning(self) -> LearningSection | None:
        """How it trains."""
        return self.train

    def run(self, src: LoadInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the dense `TorchModel` and returns its learning curve too."""
        from pipeline.torchmodel import make_model, save_model

        data = context.data.checked(self.source, src.data)
        graph, specs = trace_checked(make_model(self.factory, self.seed), data, self.task)
        learned = learn_labels(graph, specs, self, data, context)
        save_model(out, graph, specs, ())
        return learned
