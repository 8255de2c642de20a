"""export: torch graph to ONNX, checked against torch on real samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import DatasetInfo, OnnxModel, TorchModel
from pipeline.data import DataSource
from pipeline.recipe import ExportSection
from pipeline.stages.base import Context, Stage
from pipeline.usercode import FactoryRef
from targets.words import counted

PARITY_SAMPLES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportInputs:
    """The model, and data to compare on."""

    data: DatasetInfo
    model: TorchModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportStage(Stage[ExportInputs]):
    """Exports in evaluation mode.

    Attributes:
        factory: Makes the model.
        source: The data.
        export: Operator set and tolerance.
        seed: Seed of what the factory draws.
    """

    name = "export"
    version = 2
    consumes = ExportInputs
    produces = OnnxModel
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")

    factory: FactoryRef
    source: DataSource
    export: ExportSection
    seed: int

    def run(self, src: ExportInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes model, ``io.json`` and ``modules.json``; returns the largest difference to torch per output."""
        from pipeline.exporting import check_parity, export_onnx
        from pipeline.stages.inference import run_onnx
        from pipeline.torchmodel import example_inputs, load_model
        from pipeline.training import predict

        graph, specs, _ = load_model(src.model, self.factory, self.seed)
        export_onnx(graph, example_inputs(specs), out, opset=self.export.opset)
        data = context.data.checked(self.source, src.data)
        split = data["validation"].bound(tuple(spec.name for spec in specs)).take(slice(0, PARITY_SAMPLES))
        expected = predict(graph, split, threads=1)
        context.progress(0.8, f"comparing with torch on {counted(len(split), 'sample')}")
        found = run_onnx(out / "model.onnx", split)
        errors = check_parity(found, expected, tolerance=self.export.tolerance)
        return {"parity": errors, "parity_samples": len(split), "size_bytes": (out / "model.onnx").stat().st_size}
