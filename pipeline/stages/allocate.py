"""allocate: the widths that keep the most importance at the latency asked for, measured on the target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final

from pipeline.artifacts import DatasetInfo, LatencyTable, TorchModel, WidthPlan
from pipeline.data import DataSource
from pipeline.recipe import PruneSection
from pipeline.stages.base import Context, Stage
from pipeline.stages.scoring import score_units
from pipeline.tasks import Task
from pipeline.usercode import FactoryRef
from targets.profile import TargetProfile

if TYPE_CHECKING:
    from pipeline.latency.nets import NetBuilder
    from pipeline.latency.search import Measured, Round
    from pipeline.pruning.widths import Widths

_SAMPLES: Final = 16
_SCORING: Final = 0.3  # of the progress shown


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateInputs:
    """The model before pruning, what it takes at other widths, and data to score and time it on."""

    data: DatasetInfo
    model: TorchModel
    table: LatencyTable


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateStage(Stage[AllocateInputs]):
    """Chooses, builds, measures, corrects.

    Attributes:
        factory: Makes the model.
        source: The data.
        task: What the model is for.
        prune: What is asked for.
        profile: The target; its engine of first choice is measured.
        precision: What ships.
        opset: ONNX operator set.
        device: Name of the device that is measured.
        fingerprint: What that device is.
        seed: Seed of samples and of the order of measurements.
        threads: torch threads.
    """

    name = "allocate"
    version = 1
    consumes = AllocateInputs
    produces = WidthPlan
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "onnx", "onnxruntime")

    factory: FactoryRef
    source: DataSource
    task: Task
    prune: PruneSection
    profile: TargetProfile
    precision: Literal["fp32", "int8"]
    opset: int
    device: str
    fingerprint: str
    seed: int
    threads: int

    def run(self, src: AllocateInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``widths.json``: units kept by group; returns every round, predicted beside measured."""
        from pipeline.latency.knapsack import values_of
        from pipeline.latency.model import model_from_json
        from pipeline.latency.nets import NetBuilder
        from pipeline.latency.search import Goal, find_widths
        from pipeline.pruning import find_groups
        from pipeline.torchmodel import example_inputs, load_model

        gm, specs, _ = load_model(src.model, self.factory, self.seed)
        names, graph = tuple(spec.name for spec in specs), find_groups(gm, statistics=self.prune.statistics)
        model = model_from_json(src.table.read_json("table.json")["model"])
        choices = model.anatomy.choices
        data = context.data.checked(self.source, src.data)
        scored = score_units(
            gm, [group for group in graph.groups if group.name in choices], self.prune,
            data=data, names=names, task=self.task, seed=self.seed,
            on_share=lambda share: context.progress(_SCORING * share, "scoring channels"),
        )  # fmt: skip
        builder = NetBuilder(
            gm=gm, graph=graph, example=example_inputs(specs, batch=1),
            samples=data["validation"].bound(names).take(slice(0, _SAMPLES)).inputs,
            profile=self.profile.choices()[""], precision=self.precision, opset=self.opset, scratch=context.scratch,
        )  # fmt: skip
        dense = builder.build_graph(gm, "dense")
        rounds = self.prune.latency.rounds
        found = find_widths(
            model,
            values_of(choices, scored.compared),
            scored.compared,
            Goal(
                ratio=self.prune.latency_ratio,
                latency_ms=self.prune.latency_ms,
                tolerance=self.prune.latency.tolerance,
                rounds=rounds,
            ),
            self._measure(builder, {"dense": dense}, context)["dense"],
            lambda widths: self._beside(builder, dense, widths, context),
            lambda number, text: context.progress(
                _SCORING + (1 - _SCORING) * (number - 1) / rounds, f"round {number} of at most {rounds}: {text}"
            ),
        )
        best = found[-1]
        (out / "widths.json").write_text(json.dumps(best.widths, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if why := _why_off(best, self.prune.latency.tolerance, len(found)):
            context.warn(why)
        return {
            "precision": self.precision,
            "device": self.device,
            "target_ms": round(best.target_ms, 6),
            "predicted_ms": round(best.predicted_ms, 6),
            "measured_ms": round(best.measured_ms, 6),
            "dense_ms": round(best.dense_ms, 6),
            "off_ratio": round(best.off_ratio, 4),
            "importance_ratio": round(best.importance_ratio, 4),
            "why_off": why,
            "rounds": [item.to_json() for item in found],
        }

    def _beside(self, builder: NetBuilder, dense: Path, widths: Widths, context: Context) -> Measured:
        from pipeline.latency.search import Measured

        (engine,) = builder.build_all([widths], lambda _done: None)
        found = self._measure(builder, {"dense": dense, "pruned": engine}, context)
        return Measured(latency_ms=found["pruned"], dense_ms=found["dense"])

    def _measure(self, builder: NetBuilder, engines: Mapping[str, Path], context: Context) -> dict[str, float]:
        """Latency of each engine in one interleaved campaign."""
        from pipeline.benchmarking.campaign import run_campaign
        from pipeline.benchmarking.request import CampaignOptions, Entrant
        from targets.devices import device

        options = CampaignOptions(
            budget_s=self.prune.latency.budget_s,
            seed=self.seed,
            affinity=self.profile.device.affinity,
            memory_limit_mb=self.profile.device.memory_limit_mb,
        )
        entrants = [Entrant(name=n, folder=folder, samples=builder.samples_npz) for n, folder in engines.items()]
        found = run_campaign(entrants, device(self.device), options, state=context.state)
        return {name: float(found["results"][name]["latency_ms"]["value"]) for name in engines}


def _why_off(best: Round, tolerance: float, rounds: int) -> str:
    """Why the latency is not what was asked for; nothing where it is near enough."""
    if abs(best.off_ratio) <= tolerance:
        return ""
    return (
        f"the pruned engine takes {best.measured_ms:.4g} ms, {best.off_ratio:+.1%} off the {best.target_ms:.4g} ms "
        f"asked for, after {rounds} rounds: widths change in steps of the alignment, and measurements have noise; "
        "allow more with prune.latency.tolerance, measure longer with prune.latency.budget_s, or lower "
        "pruning.channel_alignment in the profile"
    )
