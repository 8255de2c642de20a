"""gate: decides which candidate ships. A loser never does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from pipeline.artifacts import CandidateBuild, Measurement, Verdict
from pipeline.gate import Candidate, Comparer, decide
from pipeline.recipe import BudgetSection
from pipeline.reporting.verdicts import void_reason
from pipeline.stages.base import Context, Stage
from pipeline.stages.benchmark import candidate_name
from targets.errors import InputError
from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class GateInputs:
    """The candidates in order of challenge, float before int8, and at most one measurement of them."""

    measurement: tuple[Measurement, ...]
    builds: tuple[CandidateBuild, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GateStage(Stage[GateInputs]):
    """Applies the budget, then lets the faster one win.

    Attributes:
        budget: Floor and ceilings of the recipe.
        profile: The target, for its memory and storage.
    """

    name = "gate"
    version = 5
    consumes = GateInputs
    produces = Verdict
    measured = True
    tools: ClassVar[tuple[str, ...]] = ()

    budget: BudgetSection
    profile: TargetProfile

    def run(self, src: GateInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``verdict.json``."""
        del context
        campaign = src.measurement[0].read_json("benchmark.json") if src.measurement else None
        reference = candidate_name(src.builds[0])
        candidates = [_candidate(build, campaign, reference) for build in src.builds]
        decision = decide(candidates, self._budget(), _comparer(campaign))
        scored_on = sorted({candidate.scored_on for candidate in candidates if candidate.scored_on})
        results = {
            "accuracy_from": scored_on[0] if scored_on else "",
            "chosen": f"build:{decision.chosen}",
            "shipped": decision.chosen,
            "met_budget": decision.met_budget,
            "reasons": list(decision.reasons),
            "of_each": {name: list(reasons) for name, reasons in decision.of_each.items()},
        }
        (out / "verdict.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return results

    def _budget(self) -> BudgetSection:
        """The recipe's budget, tightened by what the target has."""
        hardware = self.profile.hardware
        return self.budget.model_copy(
            update={
                "memory_mb": _tighter(self.budget.memory_mb, hardware.memory_mb),
                "size_mb": _tighter(self.budget.size_mb, hardware.storage_mb),
            }
        )


def _tighter(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _unit(options: Mapping[str, Any]) -> list[Any]:
    """The providers, or the device, that an engine's options name."""
    return list(options.get("providers") or [options.get("device", "")])


def _candidate(build: CandidateBuild, campaign: Mapping[str, Any] | None, reference: str) -> Candidate:
    name = candidate_name(build)
    engine = build.read_json("engine.json")
    known = {
        "name": name,
        "precision": build.results["precision"],
        "metric": build.results["metric"],
        "size_bytes": build.results["size_bytes"],
        "runs_by": " ".join([str(engine["engine"]), *map(str, _unit(engine["options"]))]),
    }
    if campaign is None:
        return Candidate(
            **known, accuracy=build.results["accuracy"], latency_ms=None, memory_bytes=None, outputs_ok=True
        )
    if name not in campaign["results"]:
        missing = campaign.get("unmeasured", {})[name]
        return Candidate(
            **known,
            accuracy=build.results["accuracy"],
            latency_ms=None,
            memory_bytes=None,
            outputs_ok=True,
            unmeasured=f"{missing['what']}: {missing['why']}",
        )
    measured = campaign["results"][name]
    memory = measured["memory"]["run_peak"]
    scored = campaign.get("accuracy_on_device", {}).get(name)
    return Candidate(
        **known,
        accuracy=scored["value"] if scored else build.results["accuracy"],
        scored_on=scored["device"] if scored else "",
        latency_ms=measured["latency_ms"]["value"],
        latency_ratio=1.0 if name == reference else _ratio(campaign, name, reference),
        latency_p95_ms=((measured.get("tail_ms") or {}).get("p95") or {}).get("upper99"),
        energy_mj=((campaign.get("energy", {}).get(name) or {}).get("gross_mj") or {}).get("median"),
        memory_bytes=memory["max_bytes"] if memory else None,
        outputs_ok=measured["outputs_ok"] is not False,
        void=void_reason(campaign, name),
    )


def _ratio(campaign: Mapping[str, Any], name: str, reference: str) -> float | None:
    """Latency over the reference's; None where the campaign could not compare them."""
    from pipeline.benchmarking.analysis import find_comparison

    try:
        return float(find_comparison(campaign, name, reference)["ratio"])
    except InputError:
        return None


def _comparer(campaign: Mapping[str, Any] | None) -> Comparer | None:
    """What the campaign says of one candidate against another; nothing when nothing was measured."""
    if campaign is None:
        return None
    from pipeline.benchmarking.analysis import find_comparison

    noise = campaign["noise"].get("floor_pct")

    def compare(challenger: str, incumbent: str) -> Mapping[str, Any]:
        return {**find_comparison(campaign, challenger, incumbent), "noise_percent": noise}

    return compare
