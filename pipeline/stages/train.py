"""train: the user's model trained from scratch, when there are no weights yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import TorchModel
from pipeline.data import DataSource
from pipeline.recipe import TrainSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.load import LoadInputs, baseline, trace_checked
from pipeline.tasks import TASKS
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from pipeline.data import Dataset
    from pipeline.tasks import Task
    from pipeline.training import EpochResult


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStage(Stage[LoadInputs]):
    """Trains the dense model.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: Name of the task.
        train: How to train.
        seed: Seed of initial weights, order of samples and dropout.
        threads: torch threads.
    """

    name = "train"
    version = 1
    consumes = LoadInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "lightning-fabric")

    factory: FactoryRef
    source: DataSource
    task: str
    train: TrainSection
    seed: int
    threads: int

    def run(self, src: LoadInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the dense `TorchModel` and returns its learning curve too."""
        from pipeline.torchmodel import make_model, save_model
        from pipeline.training import TrainConfig, fit

        data = context.data.checked(self.source, src.data)
        task = TASKS[self.task]
        graph, specs = trace_checked(make_model(self.factory, self.seed), data, self.task)
        names = tuple(spec.name for spec in specs)
        config = TrainConfig(
            epochs=self.train.epochs,
            batch_size=self.train.batch_size,
            optimizer=self.train.optimizer,
            learning_rate=self.train.learning_rate,
            weight_decay=self.train.weight_decay,
            seed=self.seed,
            threads=self.threads,
        )
        curve = fit(
            graph,
            data["train"].bound(names),
            lambda _inputs, labels, outputs: task.loss(outputs, labels, label_smoothing=self.train.label_smoothing),
            config,
            validate=validation_score(data, names, task, self.threads),
            on_epoch=epoch_progress(context, self.train.epochs),
        )
        save_model(out, graph, specs, None)
        return {**baseline(graph, specs, data, self.task, self.threads), "curve": curve_of(curve)}


def validation_score(data: Dataset, names: tuple[str, ...], task: Task, threads: int) -> Callable[[GraphModule], float]:
    """A function that scores a graph on the validation split."""
    from pipeline.training import predict

    split = data["validation"].bound(names)

    def score(graph: GraphModule) -> float:
        outputs = predict(graph, split, threads=threads)
        return task.score(outputs, split.labels, outputs)

    return score


def epoch_progress(context: Context, epochs: int) -> Callable[[EpochResult], None]:
    """A function that reports an epoch's figures as progress."""

    def report(result: EpochResult) -> None:
        context.progress(
            result.epoch / epochs,
            f"epoch {result.epoch}/{epochs}",
            loss=result.loss,
            accuracy=result.accuracy,
        )

    return report


def curve_of(results: Sequence[EpochResult]) -> list[dict[str, float]]:
    """A learning curve as plain data."""
    return [
        {"epoch": r.epoch, "loss": round(r.loss, 6), "accuracy": round(r.accuracy, 6), "lr": round(r.learning_rate, 8)}
        for r in results
    ]
