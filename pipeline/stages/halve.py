"""halve: float16 around the Q/DQ of an int8 model, for engines that compute there in 16 bits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import DatasetInfo, OnnxModel
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.stages.calibrate import calibration_samples
from targets.errors import InputError

_TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HalveInputs:
    """The int8 model, and data to find what overflows 16 bits."""

    data: DatasetInfo
    model: OnnxModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HalveStage(Stage[HalveInputs]):
    """Converts what is float in a model with Q/DQ, scales too, in a limited child.

    A model that cannot be converted (scales in float16 exist from opset 19 on) stays as it is, and a warning says why.

    Attributes:
        source: The data.
        samples: At most that many are looked at; what overflows on them stays float32.
        threads: Threads of that look.
    """

    name = "halve"
    version = 1
    consumes = HalveInputs
    produces = OnnxModel
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime")

    source: DataSource
    samples: int
    threads: int

    def run(self, src: HalveInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``model.onnx``, ``io.json`` and where known ``modules.json``."""
        from pipeline.benchmarking.modules import read_modules, write_modules
        from pipeline.stages.inference import save_inputs
        from targets.process import Limits, call_limited

        data = context.data.checked(self.source, src.data)
        archive = context.scratch / "samples.npz"
        save_inputs(archive, calibration_samples(data, src.model, self.samples))
        if names := read_modules(src.model.folder):
            write_modules(out, names)
        request = {
            "model": str(src.model.model),
            "precision": "fp16",
            "weight_bits": 8,
            "samples": str(archive),
            "threads": self.threads,
            "out_folder": str(out),
        }
        what = "conversion to fp16 around Q/DQ"
        try:
            summary = call_limited(
                "calibration.child_formats:convert_in_child", request, limits=Limits(timeout_s=_TIMEOUT_S), what=what
            )
        except InputError as error:
            context.warn(f"what is float beside int8 stays fp32: {error.what}: {error.why}")
            for name in ("model.onnx", "io.json"):
                shutil.copyfile(src.model.folder / name, out / name)
            summary = {"changed": 0, "left": 0, "why": f"{error.what}: {error.why}"}
        return {**summary, "size_bytes": (out / "model.onnx").stat().st_size}
