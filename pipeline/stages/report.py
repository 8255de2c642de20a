"""report: everything a run found, as ``run.json`` and one self-contained page; reads the test split, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import (
    Artifact,
    Bundle,
    CandidateBuild,
    DatasetInfo,
    LayerTimes,
    Measurement,
    OnnxModel,
    Report,
    Verdict,
)
from pipeline.candidates import profile_of
from pipeline.data import DataSource
from pipeline.events import CandidateDropped
from pipeline.stages.base import Context, Stage
from pipeline.stages.benchmark import candidate_name
from pipeline.tasks import Task
from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """All that the report tells of."""

    data: DatasetInfo
    reference: OnnxModel
    stages: tuple[Artifact, ...]
    measurement: tuple[Measurement, ...]
    layers: tuple[LayerTimes, ...]
    verdict: Verdict
    builds: tuple[CandidateBuild, ...]
    bundle: Bundle
    dropped: tuple[CandidateDropped, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStage(Stage[ReportInputs]):
    """Writes the report.

    Attributes:
        recipe: What the report tells of the recipe, as plain data; no paths.
        profile: The target.
        source: The data.
        task: What the model is for.
        models: For each candidate the node whose model it is built from.
    """

    name = "report"
    version = 5
    consumes = ReportInputs
    produces = Report
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("jinja2", "matplotlib", "onnxruntime")

    recipe: Mapping[str, Any]
    profile: TargetProfile
    source: DataSource
    task: Task
    models: Mapping[str, str]

    def run(self, src: ReportInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``run.json`` and ``report.html``."""
        from pipeline.benchmarking.raw import read_raw
        from pipeline.reporting.compose import RunFacts, compose_run
        from pipeline.reporting.render import write_report

        facts = RunFacts(
            recipe=self.recipe,
            profile=self.profile,
            metric=self.task.metric,
            stages=src.stages,
            campaign=src.measurement[0].read_json("benchmark.json") if src.measurement else None,
            verdict=src.verdict.results,
            builds=src.builds,
            test_scores=self._test_scores(src, context),
            raw=read_raw(src.measurement[0].folder / "raw.json.gz") if src.measurement else (),
            dropped=src.dropped,
            models=self.models,
            layers=src.layers[0] if src.layers else None,
            samples={name: int(count) for name, count in src.data.results["samples"].items()},
        )
        run = compose_run(facts)
        write_report(run, out)
        return {"sentence": run["verdict"]["sentence"]}

    def _test_scores(self, src: ReportInputs, context: Context) -> dict[str, dict[str, Any]]:
        """All metrics on the test split of the reference and of what ships; nothing without such a split."""
        from pipeline.stages.evaluate import answered

        data = context.data.checked(self.source, src.data)
        if "test" not in data.splits:
            return {}
        found = {}
        for build in src.builds:
            name = candidate_name(build)
            if build.node not in {src.builds[0].node, src.verdict.results["chosen"]}:
                continue
            profile = profile_of(name, build.results["precision"], self.profile)
            said = answered(build.folder, "test", src.reference, profile, self.task, data, context.scratch)
            found[name] = self.task.scores(said.outputs, said.labels, said.reference)
        return found
