"""student: another model than the recipe's own, untrained, for the teachers to teach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import TorchModel
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.stages.load import LoadInputs, size_of, trace_checked
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StudentStage(Stage[LoadInputs]):
    """Makes a model with weights drawn from the seed.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        seed: Seed of what the factory draws.
        threads: torch threads.
    """

    name = "student"
    version = 1
    consumes = LoadInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    factory: FactoryRef
    source: DataSource
    task: Task
    seed: int
    threads: int

    def run(self, src: LoadInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the `TorchModel`."""
        from pipeline.torchmodel import make_model, save_model

        data = context.data.checked(self.source, src.data)
        graph, specs = trace_checked(make_model(self.factory, self.seed), data, self.task)
        save_model(out, graph, specs, ())
        return size_of(graph, specs)
