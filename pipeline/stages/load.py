"""load: the user's model with the user's weights, and its baseline on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.data import DataSource
from pipeline.data.source import FileRef, check_unchanged
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from torch.fx import GraphModule
    from torch.nn import Module

    from pipeline.data import Dataset
    from pipeline.torchmodel import InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadInputs:
    """The data that the model must fit."""

    data: DatasetInfo


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStage(Stage[LoadInputs]):
    """Loads trained weights into the user's model and traces it.

    Attributes:
        factory: Makes the model.
        weights: Its trained weights.
        fresh: Module paths (globs) whose weights stay as the factory drew them.
        source: The data.
        task: What the model is for.
        seed: Seed of what the factory draws.
        threads: torch threads.
    """

    name = "load"
    version = 2
    consumes = LoadInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    factory: FactoryRef
    weights: FileRef
    fresh: tuple[str, ...] = ()
    source: DataSource
    task: Task
    seed: int
    threads: int

    def run(self, src: LoadInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the dense `TorchModel`."""
        from pipeline.torchmodel import load_user_weights, make_model, save_model

        data = context.data.checked(self.source, src.data)
        model = make_model(self.factory, self.seed)
        check_unchanged(self.weights, "model.weights")
        load_user_weights(model, self.weights.path, fresh=self.fresh)
        graph, specs = trace_checked(model, data, self.task)
        save_model(out, graph, specs, ())
        return baseline(graph, specs, data, self.task, self.threads)


def trace_checked(model: Module, data: Dataset, task: Task) -> tuple[GraphModule, tuple[InputSpec, ...]]:
    """The traced model, its outputs checked against the labels of all splits."""
    from pipeline.graph import trace
    from pipeline.torchmodel import example_inputs, input_specs
    from pipeline.training import predict

    specs = input_specs(model, data)
    graph = trace(model, example_inputs(specs))
    few = data["validation"].take(slice(0, 4)).bound(tuple(spec.name for spec in specs))
    task.check_outputs(predict(graph, few, threads=1), data)
    return graph, specs


def baseline(
    graph: GraphModule, specs: tuple[InputSpec, ...], data: Dataset, task: Task, threads: int
) -> dict[str, Any]:
    """The metric of the dense model on the validation split, its parameters and MACs."""
    from pipeline.training import predict

    split = data["validation"].bound(tuple(spec.name for spec in specs))
    outputs = predict(graph, split, threads=threads)
    return {**task.named(task.score(outputs, split.labels, outputs)), **size_of(graph, specs)}


def size_of(graph: GraphModule, specs: tuple[InputSpec, ...]) -> dict[str, int]:
    """Parameters, and multiply-accumulates per sample."""
    from pipeline.graph import count_macs, count_parameters
    from pipeline.torchmodel import example_inputs

    return {"parameters": count_parameters(graph), "macs": count_macs(graph, example_inputs(specs))}
