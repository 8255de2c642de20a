"""distill: fine-tunes the edited net, with its own dense parent as teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.data import DataSource
from pipeline.recipe import DistillSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.learning import learn, validation_score
from pipeline.stages.load import size_of
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillInputs:
    """Student, teacher and the data they learn on."""

    data: DatasetInfo
    student: TorchModel
    teacher: TorchModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DistillStage(Stage[DistillInputs]):
    """Soft targets of the teacher and the labels, in one loss.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        distill: How to train.
        seed: Seed of the order of samples and of dropout.
        threads: torch threads.
    """

    name = "distill"
    version = 2
    consumes = DistillInputs
    produces = TorchModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "lightning-fabric")

    factory: FactoryRef
    source: DataSource
    task: Task
    distill: DistillSection
    seed: int
    threads: int

    def run(self, src: DistillInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the trained student."""
        import torch

        from pipeline.distillation import soft_target_loss
        from pipeline.graph import flat_outputs, set_training
        from pipeline.torchmodel import load_model, save_model

        data = context.data.checked(self.source, src.data)
        task = self.task
        student, specs, edits = load_model(src.student, self.factory, self.seed)
        teacher, _, _ = load_model(src.teacher, self.factory, self.seed)
        set_training(teacher, training=False)
        names = tuple(spec.name for spec in specs)

        def loss(inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
            with torch.no_grad():
                target, *_ = flat_outputs(teacher(*inputs.values()))
            soft = soft_target_loss(outputs[0], target, self.distill.temperature)
            hard = task.loss(outputs, labels, label_smoothing=self.distill.label_smoothing)
            return self.distill.alpha * hard + (1 - self.distill.alpha) * soft

        learned = learn(
            student,
            loss,
            self.distill,
            data=data,
            names=names,
            task=self.task,
            seed=self.seed,
            threads=self.threads,
            context=context,
        )
        save_model(out, student, specs, edits)
        score = validation_score(data, names, task, self.threads)
        return {**task.named(score(student)), **size_of(student, specs), **learned}
