"""quantize: streaming calibration, then explicit Q/DQ for the profile's scheme; accuracy on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import DatasetInfo, OnnxModel, QuantizedModel
from pipeline.data import DataSource
from pipeline.recipe import QuantizeSection
from pipeline.stages.base import Context, Stage
from pipeline.tasks import TASKS
from targets.profile import TargetProfile

if TYPE_CHECKING:
    from pipeline.data import Split

CALIBRATION_TIMEOUT_S: Final = 3600.0
CALIBRATION_BATCH: Final = 32
ENOUGH_SAMPLES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeInputs:
    """The float model, the uncompressed model it is judged against, and data to calibrate with."""

    data: DatasetInfo
    model: OnnxModel
    reference: OnnxModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStage(Stage[QuantizeInputs]):
    """Calibrates and writes the int8 model, in a limited child.

    Attributes:
        source: The data.
        task: Name of the task.
        quantize: Method and number of samples.
        profile: The target, for its scheme.
        threads: Threads of the calibration.
    """

    name = "quantize"
    version = 2
    consumes = QuantizeInputs
    produces = QuantizedModel
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime")

    source: DataSource
    task: str
    quantize: QuantizeSection
    profile: TargetProfile
    threads: int

    def run(self, src: QuantizeInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the `QuantizedModel`."""
        from pipeline.benchmarking.modules import read_modules, write_modules
        from pipeline.stages.evaluate import evaluate
        from pipeline.stages.import_onnx import bind_to_onnx
        from pipeline.stages.inference import build_engine, save_inputs
        from targets.process import Limits, call_limited

        data = context.data.checked(self.source, src.data)
        samples = _spread(bind_to_onnx(data.calibration, src.model.read_json("io.json")), self.quantize.samples)
        if len(samples) < ENOUGH_SAMPLES:
            context.warn(f"only {len(samples)} calibration samples: ranges are rough below {ENOUGH_SAMPLES}")
        archive = context.scratch / "samples.npz"
        save_inputs(archive, samples)
        summary = call_limited(
            "calibration.child:quantize_in_child",
            {
                "model": str(src.model.model),
                "samples": str(archive),
                "scheme": self.profile.quantization.scheme,
                "method": self.quantize.method,
                "threads": self.threads,
                "batch_size": CALIBRATION_BATCH,
                "out_folder": str(out),
            },
            limits=Limits(timeout_s=CALIBRATION_TIMEOUT_S),
            what="calibration and quantisation",
        )
        if names := read_modules(src.model.folder):
            write_modules(out, names)
        context.progress(0.7, "scoring the int8 model on the validation split")
        engine = context.scratch / "engine"
        build_engine(out / "model.onnx", self.profile, "int8", engine)
        accuracy = evaluate(engine, "validation", src.reference, self.profile, TASKS[self.task], data, context.scratch)
        return {
            "accuracy": accuracy,
            "calibration_samples": len(samples),
            "size_bytes": (out / "model.onnx").stat().st_size,
            **summary,
        }


def _spread(split: Split, count: int) -> Split:
    """At most ``count`` samples, evenly spread over the split, so that sorted data do not bias the ranges."""
    import numpy as np

    if len(split) <= count:
        return split
    return split.take(np.linspace(0, len(split) - 1, count).astype(np.int64))
