"""build: the engine of one candidate, built in a limited child, read back and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import CandidateBuild, DatasetInfo, OnnxModel
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task
from targets.options import Precision
from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInputs:
    """The candidate's model, the uncompressed model it is judged against, and data to score it."""

    data: DatasetInfo
    model: OnnxModel
    reference: OnnxModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStage(Stage[BuildInputs]):
    """Builds for the profile.

    Attributes:
        precision: What the candidate claims to be; an engine that is not what it claims is an error.
        profile: The target.
        source: The data.
        task: What the model is for.
        built_with: `pipeline.candidates.built_with`: what the engine depends on beside ``tools``.
    """

    name = "build"
    version = 7
    consumes = BuildInputs
    produces = CandidateBuild
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    precision: Precision
    profile: TargetProfile
    source: DataSource
    task: Task
    built_with: str = ""

    def run(self, src: BuildInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes engine file, ``engine.json`` and ``inspect.json``; returns metrics and size.

        Where the engine does not run here as on its target, its graph is computed otherwise: ``answers_by`` says how.
        """
        from pipeline.benchmarking.modules import note_modules
        from pipeline.stages.answers import answered_by
        from pipeline.stages.evaluate import answered
        from pipeline.stages.inference import build_engine

        summary = build_engine(src.model.model, self.profile, self.precision, out)
        note_modules(out, summary["engine"]["file"], src.model.model)
        inspection = summary["inspection"]
        name = f"the {self.precision} engine of {self.profile.engine.name}"
        by = answered_by(out, self.profile)
        said = [*inspection["warnings"]] + ([f"its {self.task.metric} is by {by}"] if by else [])
        if said:
            context.warn(f"{name}: {'; '.join(said)}")
        context.progress(0.5, "scoring the engine on the validation split")
        data = context.data.checked(self.source, src.data)
        found = answered(out, "validation", src.reference, self.profile, self.task, data, context.scratch)
        return {
            "engine": self.profile.engine.name,
            "precision": self.precision,
            "answers_by": by,
            "warnings": list(inspection["warnings"]),
            **self.task.scores(found.outputs, found.labels, found.reference),
            "size_bytes": (out / summary["engine"]["file"]).stat().st_size,
            "nodes": sum(inspection["nodes"].values()),
            "int8_nodes": sum(inspection["int8_nodes"].values()),
            "int8_mac_ratio": inspection["int8_mac_ratio"],
        }
