"""finetune: goes on training the model with the user's weights: all of it, a new head, or named modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.data import DataSource
from pipeline.recipe import FinetuneSection, LearningSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.learning import learn_labels
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneInputs:
    """The model with the user's weights, and the data it learns on."""

    data: DatasetInfo
    model: TorchModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneStage(Stage[FinetuneInputs]):
    """Trains the dense model further.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        finetune: How to train.
        seed: Seed of the order of samples, of dropout and of augmentation.
        threads: torch threads.
    """

    name = "finetune"
    version = 1
    consumes = FinetuneInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "lightning-fabric")

    factory: FactoryRef
    source: DataSource
    task: Task
    finetune: FinetuneSection
    seed: int
    threads: int

    @property
    def learning(self) -> LearningSection | None:
        """How it trains."""
        return self.finetune

    def run(self, src: FinetuneInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the dense `TorchModel` and returns its learning curve too."""
        from pipeline.torchmodel import load_model, save_model

        data = context.data.checked(self.source, src.data)
        graph, specs, edits = load_model(src.model, self.factory, self.seed)
        learned = learn_labels(graph, specs, self, data, context)
        save_model(out, graph, specs, edits)
        return learned
