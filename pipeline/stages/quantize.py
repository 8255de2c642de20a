"""quantize: explicit Q/DQ for the profile's scheme with what pays, and what recovers the accuracy floor if need be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import CalibrationResult, DatasetInfo, OnnxModel, QuantizedModel
from pipeline.data import DataSource
from pipeline.recipe import QuantizeSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.calibrate import CALIBRATION_BATCH, calibration_samples, save_classes, spread_rows
from pipeline.tasks import Task
from targets.profile import TargetProfile
from targets.words import counted

_OVERHEAD_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeInputs:
    """The float model with its ranges, the uncompressed model it is judged against, and data."""

    data: DatasetInfo
    model: OnnxModel
    reference: OnnxModel
    calibration: CalibrationResult


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStage(Stage[QuantizeInputs]):
    """Chooses and writes the int8 model, in limited children.

    Attributes:
        source: The data.
        task: What the model is for.
        quantize: What to try.
        accuracy_drop: Largest loss against the reference; below it, training and mixed precision begin.
        profile: The target, for its scheme.
        seed: Seed of what is learned.
        threads: Threads of everything.
        built_with: `pipeline.candidates.built_with`: what the engines that score depend on beside ``tools``.
        measure: Whether mixed precision asks a device what float costs in a layer, rather than predicting it.
        device: Name of that device; it stands for the target, so another of the kind gives no other model.
    """

    name = "quantize"
    version = 11
    consumes = QuantizeInputs
    produces = QuantizedModel
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime", "torch")

    source: DataSource
    task: Task
    quantize: QuantizeSection
    accuracy_drop: float
    profile: TargetProfile
    seed: int
    threads: int
    built_with: str = ""
    measure: bool = False
    device: str = field(default="local", metadata={"key": False})

    def run(self, src: QuantizeInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the `QuantizedModel`."""
        from pipeline.benchmarking.modules import read_modules, write_modules
        from pipeline.stages.inference import save_inputs
        from pipeline.stages.recover import Recovery
        from targets.process import Limits, call_limited

        data = context.data.checked(self.source, src.data)
        samples = calibration_samples(data, src.model, self.quantize.samples)
        archive = context.scratch / "samples.npz"
        save_inputs(archive, samples)
        request = {
            "model": str(src.model.model),
            "samples": str(archive),
            "numbers": spread_rows(len(data.calibration), self.quantize.samples),
            "labels": save_classes(self.task, samples, context.scratch / "labels.npy"),
            "scheme": self.profile.quantization.scheme,
            "method": self.quantize.method,
            "algorithms": self.quantize.algorithms,
            "table": str(src.calibration.table),
            "observe": self.quantize.observe,
            "memory_mb": self.quantize.memory_mb,
            "target_snr_db": self.quantize.target_snr_db,
            "time_budget_s": self.quantize.time_budget_s,
            "seed": self.seed,
            "threads": self.threads,
            "batch_size": CALIBRATION_BATCH,
            "out_folder": str(out),
            "float_out": str(context.scratch / "float.onnx"),
        }
        limits = Limits(timeout_s=_OVERHEAD_S + self.quantize.time_budget_s)
        summary = call_limited("calibration.child:quantize_in_child", request, limits=limits, what="quantisation")
        _tell(summary, context)
        names = read_modules(src.model.folder)
        if names:
            write_modules(out, names)
        context.progress(0.7, "scoring the int8 model on the validation split")
        recovery = Recovery(
            request=request,
            limits=limits,
            section=self.quantize,
            accuracy_drop=self.accuracy_drop,
            profile=self.profile,
            task=self.task,
            reference=src.reference,
            data=data,
            context=context,
            modules=names,
            device=self.device if self.measure else None,
        )
        recovered = recovery.run(out, summary)
        examined = recovery.examine(out, str(summary["method"]), forecast=True)
        _warn_of_saturation(examined["forecast"], context)
        return {
            "calibration_samples": len(samples),
            "findings": src.calibration.results["findings"],
            **summary,
            **recovered,
            **examined,
            "size_bytes": (out / "model.onnx").stat().st_size,
        }


def _warn_of_saturation(forecast: Mapping[str, Any] | None, context: Context) -> None:
    if forecast and forecast.get("saturating"):
        context.warn(
            f"on x86 CPUs without VNNI {counted(len(forecast['saturating']), 'layer')} would saturate (output SNR "
            f"{forecast['snr_db']:.1f} dB against this CPU class): use a target with scheme ort-x86-avx2 there"
        )


def _tell(summary: dict[str, Any], context: Context) -> None:
    """Reports the steps; their times stay out of the results, which repeat."""
    for number, tried in enumerate(summary["tried"], start=1):
        seconds = tried.pop("seconds")
        verdict = "kept" if tried["kept"] else tried["reason"]
        figures = {} if tried["snr_db"] is None else {"snr_db": tried["snr_db"]}
        context.progress(
            0.6 * number / len(summary["tried"]), f"{tried['step']}: {verdict} ({seconds:.1f} s)", **figures
        )
