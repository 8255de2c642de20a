"""report: everything a run found, as ``run.json`` and one self-contained page; reads the test split, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import Artifact, Bundle, CandidateBuild, DatasetInfo, Measurement, OnnxModel, Report, Verdict
from pipeline.candidates import profile_of
from pipeline.data import DataSource
from pipeline.events import CandidateDropped
from pipeline.stages.base import Context, Stage
from pipeline.stages.benchmark import candidate_name
from pipeline.tasks import TASKS
from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """All that the report tells of."""

    data: DatasetInfo
    reference: OnnxModel
    stages: tuple[Artifact, ...]
    measurement: tuple[Measurement, ...]
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
        task: Name of the task.
        models: For each candidate the node whose model it is built from.
    """

    name = "report"
    version = 4
    consumes = ReportInputs
    produces = Report
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("jinja2", "matplotlib", "onnxruntime")

    recipe: Mapping[str, Any]
    profile: TargetProfile
    source: DataSource
    task: str
    models: Mapping[str, str]

    def run(self, src: ReportInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``run.json`` and ``report.html``."""
        from pipeline.benchmarking.raw import read_raw
        from pipeline.reporting.compose import RunFacts, compose_run
        from pipeline.reporting.render import write_report

        facts = RunFacts(
            recipe=self.recipe,
            profile=self.profile,
            metric=TASKS[self.task].metric,
            stages=src.stages,
            campaign=src.measurement[0].read_json("benchmark.json") if src.measurement else None,
            verdict=src.verdict.results,
            builds=src.builds,
            test_accuracy=self._test_accuracy(src, context),
            raw=read_raw(src.measurement[0].folder / "raw.json.gz") if src.measurement else (),
            dropped=src.dropped,
            models=self.models,
            samples={name: int(count) for name, count in src.data.results["samples"].items()},
        )
        run = compose_run(facts)
        write_report(run, out)
        return {"sentence": run["verdict"]["sentence"]}

    def _test_accuracy(self, src: ReportInputs, context: Context) -> dict[str, float]:
        """Accuracy on the test split of the reference and of what ships; nothing without such a split."""
        from pipeline.stages.evaluate import evaluate

        data = context.data.checked(self.source, src.data)
        if "test" not in data.splits:
            return {}
        shown = (src.builds[0].node, src.verdict.results["chosen"])
        return {
            candidate_name(build): evaluate(
                build.folder,
                "test",
                src.reference,
                profile_of(candidate_name(build), build.results["precision"], self.profile),
                TASKS[self.task],
                data,
                context.scratch,
            )
            for build in src.builds
            if build.node in shown
        }
