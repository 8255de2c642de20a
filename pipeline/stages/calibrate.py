"""calibrate: one streaming pass over the samples, to the ranges of every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final

from pipeline.artifacts import CalibrationResult, DatasetInfo, OnnxModel
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task

if TYPE_CHECKING:
    from pipeline.data import Dataset, Split

CALIBRATION_TIMEOUT_S: Final = 3600.0
CALIBRATION_BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateInputs:
    """The float model and data to run it on."""

    data: DatasetInfo
    model: OnnxModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateStage(Stage[CalibrateInputs]):
    """Measures ranges, in a limited child; neither method, scheme nor algorithms matter here.

    Attributes:
        source: The data.
        task: What the model is for; classes are looked at where it has some.
        samples: At most that many are used, every fifth of them held back for the choice between methods.
        min_samples: With fewer, a warning.
        observe: What histograms take, ``sampled`` or ``all``.
        memory_mb: Limit for the activations held at once.
        threads: Threads of the pass.
    """

    name = "calibrate"
    version = 7
    consumes = CalibrateInputs
    produces = CalibrationResult
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime")

    source: DataSource
    task: Task
    samples: int
    min_samples: int
    observe: Literal["sampled", "all"]
    memory_mb: int
    threads: int

    def run(self, src: CalibrateInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``calibration.json``; returns what is wrong with samples or model as ``findings``."""
        from pipeline.stages.inference import save_inputs
        from targets.process import Limits, call_limited

        data = context.data.checked(self.source, src.data)
        samples = calibration_samples(data, src.model, self.samples)
        validation = spread(bound(data["validation"], src.model), self.samples)
        for name, split in (("samples", samples), ("validation", validation)):
            save_inputs(context.scratch / f"{name}.npz", split)
        summary = call_limited(
            "calibration.child:calibrate_in_child",
            {
                "model": str(src.model.model),
                "samples": str(context.scratch / "samples.npz"),
                "numbers": sample_numbers(data, self.samples),
                "labels": save_classes(self.task, samples, context.scratch / "labels.npy"),
                "validation": str(context.scratch / "validation.npz"),
                "validation_labels": save_classes(
                    self.task, data["validation"], context.scratch / "validation-labels.npy"
                ),
                "min_samples": self.min_samples,
                "observe": self.observe,
                "memory_mb": self.memory_mb,
                "threads": self.threads,
                "batch_size": CALIBRATION_BATCH,
                "out": str(out / "calibration.json"),
            },
            limits=Limits(timeout_s=CALIBRATION_TIMEOUT_S),
            what="calibration",
        )
        findings: list[Mapping[str, Any]] = [*summary["findings"], *_judges_itself(data)]  # type: ignore[misc]
        for finding in findings:
            if finding["severity"] == "warning":
                context.warn(f"{finding['code']}: {finding['text']}; {finding['fix']}")
        return summary | {"findings": findings}


def _judges_itself(data: Dataset) -> list[Mapping[str, Any]]:
    """Where no other split can calibrate, the validation split does, and judges what it has made."""
    if data.calibration is not data["validation"]:
        return []
    return [
        {
            "code": "C-VALIDATION",
            "severity": "warning",
            "tensor": None,
            "text": "the validation split calibrates, for there is no other: it flatters int8",
            "evidence": {"samples": len(data["validation"])},
            "fix": "give the data a split 'calibration' or 'train' (docs/data.md)",
        }
    ]


def calibration_samples(data: Dataset, model: OnnxModel, count: int) -> Split:
    """What a model is calibrated with: at most ``count`` samples of the split for it, with its inputs' names."""
    return spread(bound(data.calibration, model), count)


def bound(split: Split, model: OnnxModel) -> Split:
    """The split with the names of the model's inputs."""
    from pipeline.stages.import_onnx import bind_to_onnx

    return bind_to_onnx(split, model.read_json("io.json"))


def save_classes(task: Task, split: Split, path: Path) -> str | None:
    """Writes the class numbers of a split, for tasks that have them; the file, or None."""
    import numpy as np

    if task.name != "classification" or split.labels is None:
        return None
    np.save(path, split.labels)
    return str(path)


def spread(split: Split, count: int) -> Split:
    """At most ``count`` samples, evenly spread over the split, so that sorted data do not bias the ranges."""
    import numpy as np

    if len(split) <= count:
        return split
    return split.take(np.array(spread_rows(len(split), count)))


def sample_numbers(data: Dataset, count: int) -> list[int]:
    """What messages call the samples of `calibration_samples`: rows of the file, or numbers in their split."""
    rows = data.calibration.rows
    taken = spread_rows(len(data.calibration), count)
    return taken if rows is None else rows[taken].tolist()


def spread_rows(size: int, count: int) -> list[int]:
    """Which of ``size`` samples `spread` takes."""
    import numpy as np

    return [*range(size)] if size <= count else np.linspace(0, size - 1, count).astype(int).tolist()
