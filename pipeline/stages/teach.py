"""teach: what a teacher answers to the training data, asked once for all trainings that listen to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import DatasetInfo, OnnxModel, TeacherAnswers, TorchModel
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.stages.teachers import opener
from pipeline.usercode import FactoryRef

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.data.dataset import Array
    from pipeline.stages.teachers import Ask

_FEW: Final = 2
_PART: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachInputs:
    """The teacher and the data."""

    data: DatasetInfo
    teacher: TorchModel | OnnxModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeachStage(Stage[TeachInputs]):
    """Keeps all outputs of a teacher for the train split, in evaluation mode and in the model's own precision.

    Attributes:
        factory: Makes the teacher; None for an ONNX file.
        source: The data.
        seed: Seed of what the factory draws.
        threads: torch threads.
        limit_bytes: Answers that would be larger are not kept: the teacher is then asked for every batch.
    """

    name = "teach"
    version = 1
    consumes = TeachInputs
    produces = TeacherAnswers
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "onnxruntime", "safetensors")

    factory: FactoryRef | None
    source: DataSource
    seed: int
    threads: int
    limit_bytes: int

    def run(self, src: TeachInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``answers.safetensors``; nothing in it where that would be over the limit."""
        from safetensors.numpy import save

        train = context.data.checked(self.source, src.data)["train"]
        ask = opener(src.teacher, self.factory, self.seed, self.threads)
        few = ask(train.take(slice(0, _FEW)))
        size_bytes = sum(answer.nbytes // len(answer) for answer in few) * len(train)
        kept = size_bytes <= self.limit_bytes
        answers = _asked(ask, train, context) if kept else []
        arrays = {str(index): answer for index, answer in enumerate(answers)}
        (out / "answers.safetensors").write_bytes(save(arrays))  # a full disk is an OSError here
        return {"kept": kept, "answers_bytes": size_bytes, "samples": len(train)}


def _asked(ask: Ask, train: Split, context: Context) -> list[Array]:
    """All outputs for all samples, ``(N, ...)`` each."""
    import numpy as np

    parts = []
    for start in range(0, len(train), _PART):
        parts.append(ask(train.take(slice(start, start + _PART))))
        done = min(start + _PART, len(train))
        context.progress(done / len(train), f"{done} of {len(train)} samples")
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
