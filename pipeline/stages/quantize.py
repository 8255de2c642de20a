"""quantize: explicit Q/DQ for the profile's scheme with what pays, and what recovers the accuracy floor if need be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import CalibrationResult, DatasetInfo, OnnxModel, QuantizedModel
from pipeline.data import DataSource
from pipeline.recipe import QuantizeSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.calibrate import CALIBRATION_BATCH, calibration_samples, sample_numbers, save_classes
from pipeline.tasks import Task
from targets.profile import TargetProfile
from targets.words import counted

_OVERHEAD_S: Final = 3600.0
_CHOSEN: Final = 0.6  # share of the stage that choosing takes, told of in progress


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
    version = 12
    consumes = QuantizeInputs
    produces = QuantizedModel
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime", "torch")
    even = False  # what a model needs, and how long that takes, comes out on the way

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

    @property
    def _steps(self) -> int:
        """How many may be tried: of range methods, algorithms, and those that nearly paid together."""
        from calibration.auto import STEPS
        from calibration.observers import METHODS

        methods = len(METHODS) if self.quantize.method == "auto" else 1
        return methods + (len(STEPS) + 1 if self.quantize.algorithms == "auto" else len(self.quantize.algorithms))

    @property
    def _may_go_on(self) -> bool:
        """Whether something long may follow the choice."""
        return {self.quantize.qat, self.quantize.mixed_precision} != {"off"}

    def run(self, src: QuantizeInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the `QuantizedModel`."""
        from pipeline.benchmarking.modules import read_modules, write_modules
        from pipeline.stages.chosen import Chosen
        from pipeline.stages.inference import save_inputs
        from pipeline.stages.recover import Recovery
        from targets.process import Limits, call_limited

        data = context.data.checked(self.source, src.data)
        samples = calibration_samples(data, src.model, self.quantize.samples)
        archive, float_model = context.scratch / "samples.npz", context.scratch / "float.onnx"
        save_inputs(archive, samples)
        request = {
            "model": str(src.model.model),
            "samples": str(archive),
            "numbers": sample_numbers(data, self.quantize.samples),
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
            "float_out": str(float_model),
        }
        limits = Limits(timeout_s=_OVERHEAD_S + self.quantize.time_budget_s)
        chosen = Chosen.of(context)
        summary = chosen.restore(out, float_model)
        if summary is None:
            summary = call_limited(
                "calibration.child:quantize_in_child",
                request,
                limits=limits,
                what="quantisation",
                hear=_hearing(context, steps=self._steps),
            )
            for tried in summary["tried"]:  # type: ignore[attr-defined]  # a list, as its docstring says
                del tried["seconds"]  # results repeat
            if self._may_go_on:
                chosen.keep(out, float_model, summary)
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


def _hearing(context: Context, *, steps: int) -> Callable[[Mapping[str, Any]], None]:
    """What takes each step that the child tells of, while it works.

    Args:
        context: Of the stage.
        steps: How many there are at most.
    """
    heard = 0

    def hear(told: Mapping[str, Any]) -> None:
        nonlocal heard
        if told["kind"] == "begin":
            context.progress(_CHOSEN * heard / steps, f"{told['step']}: learning")
            return
        heard += 1
        figures = {} if told["snr_db"] is None else {"snr_db": told["snr_db"]}
        context.progress(_CHOSEN * heard / steps, step_text(told), **figures)

    return hear


def step_text(tried: Mapping[str, Any]) -> str:
    """What became of a step, in one line; figures on other samples than those of the steps before say so."""
    verdict = "kept" if tried["kept"] else tried["reason"]
    where = ", judged on the held-back samples alone" if tried["held_back"] else ""
    return f"{tried['step']}: {verdict} ({tried['seconds']:.1f} s{where})"
