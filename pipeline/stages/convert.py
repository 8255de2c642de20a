"""convert: the float model in another format than static int8, where this model can gain from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import DatasetInfo, OnnxModel
from pipeline.data import DataSource
from pipeline.stages.base import WITHDRAWN, Context, Stage
from pipeline.stages.calibrate import calibration_samples
from targets.options import Precision

CONVERT_TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertInputs:
    """The float model, and data that show what overflows."""

    data: DatasetInfo
    model: OnnxModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertStage(Stage[ConvertInputs]):
    """Writes the model in the format, in a limited child; withdraws after a look where there is nothing to gain.

    Attributes:
        source: The data.
        precision: The format.
        weight_bits: Of dynamic int8: 7 where pairs of products must fit 16 bits, else 8.
        samples: At most that many are looked at.
        threads: Threads of that look.
        asked: The recipe asked for it: it is made even where nothing is to be gained.
    """

    name = "convert"
    version = 4
    consumes = ConvertInputs
    produces = OnnxModel
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime")

    source: DataSource
    precision: Precision
    weight_bits: int
    samples: int
    threads: int
    asked: bool

    def run(self, src: ConvertInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``model.onnx``, ``io.json``, ``format.json`` and where known ``modules.json``."""
        from calibration.gains import nothing_to_gain
        from pipeline.benchmarking.modules import read_modules, write_modules
        from pipeline.stages.inference import save_inputs
        from targets.process import Limits, call_limited

        if not self.asked and (reason := nothing_to_gain(src.model.model, self.precision)):
            return {WITHDRAWN: reason}
        archive = context.scratch / "samples.npz"
        if self.precision in {"fp16", "bf16"}:
            data = context.data.checked(self.source, src.data)
            save_inputs(archive, calibration_samples(data, src.model, self.samples))
        summary = call_limited(
            "calibration.child_formats:convert_in_child",
            {
                "model": str(src.model.model),
                "precision": self.precision,
                "weight_bits": self.weight_bits,
                "samples": str(archive),
                "threads": self.threads,
                "out_folder": str(out),
            },
            limits=Limits(timeout_s=CONVERT_TIMEOUT_S),
            what=f"conversion to {self.precision}",
        )
        if names := read_modules(src.model.folder):
            write_modules(out, names)
        return {**summary, "size_bytes": (out / "model.onnx").stat().st_size}
