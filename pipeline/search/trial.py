"""Tries one candidate: up to the cut model, then, unless that is hopeless, up to its measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.compose import compose
from pipeline.runner import run_plan
from pipeline.search.candidates import Engine
from pipeline.search.earlier import predicted_ms
from pipeline.search.pace import Pace, Stopwatch
from pipeline.search.proxies import Glance, hopeless

if TYPE_CHECKING:
    from pipeline.events import Observer
    from pipeline.plan import Plan
    from pipeline.recipe import Recipe
    from pipeline.runner import Outcome
    from pipeline.search.candidates import Tried
    from pipeline.store import Store
    from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a trial found.

    Attributes:
        engines: The candidate's engines; empty when it was given up.
        glance: What was known before anything was trained; None where nothing is cut.
        hopeless: Why it was given up.
        pace: How long it trained; None where it did not, or the store had it.
    """

    engines: tuple[Engine, ...]
    glance: Glance | None
    hopeless: str = ""
    pace: Pace | None = None


def try_candidate(
    recipe: Recipe,
    profile: TargetProfile,
    store: Store,
    observer: Observer,
    finished: Sequence[tuple[Glance, Tried]] | None,
) -> Found:
    """Runs a candidate's recipe as far as it takes to know its figures.

    Args:
        recipe: Of the candidate.
        profile: The target.
        store: Where finished stages are kept: candidates share them.
        observer: Is told what happens.
        finished: Candidates whose figures may show that this one is hopeless; None never gives up.

    Raises:
        EdgepressError: It cannot be made.
    """
    plan = compose(recipe, profile, until="benchmark" if recipe.benchmark.measure else "build")
    watch = Stopwatch(observer)
    cut = _cut(plan)
    glance = None
    if cut is not None:
        made = run_plan(plan.until(cut), store, watch)
        glance = _glance(made, cut)
        if glance.predicted_ms is None and finished is not None:
            known = predicted_ms(recipe, profile, store, observer, made[cut].entry.meta)
            glance = replace(glance, predicted_ms=known)
        if finished is not None and (why := hopeless(glance, finished)):
            return Found(engines=(), glance=glance, hopeless=why)
    outcomes = run_plan(plan, store, watch)
    return Found(engines=engines_of(outcomes, store), glance=glance, pace=watch.pace(recipe))


def _cut(plan: Plan) -> str | None:
    """Name of the last node that changes the model before it is trained; None where nothing is cut, or not trained."""
    for node in plan.nodes:
        if node.name == "distill":
            student = node.inputs.get("student", "")
            return student if isinstance(student, str) and student not in {"", "load", "train"} else None
    return None


def _glance(outcomes: Mapping[str, Outcome], cut: str) -> Glance:
    known = outcomes[cut].entry.meta
    predicted = outcomes["allocate"].entry.meta["measured_ms"] if "allocate" in outcomes else None
    return Glance(
        accuracy=float(str(known["accuracy"])),
        macs=int(str(known["macs"])),
        predicted_ms=None if predicted is None else float(str(predicted)),
    )


def engines_of(outcomes: Mapping[str, Outcome], store: Store) -> tuple[Engine, ...]:
    """The candidate's engines, without the uncompressed one where there are others, and without wrong ones."""
    builds = {name.partition(":")[2]: outcome for name, outcome in outcomes.items() if name.startswith("build:")}
    reference = next(iter(builds))
    measured = outcomes.get("benchmark")
    campaign = None if measured is None else json.loads(store.read_bytes(measured.entry, "benchmark.json"))
    floor = _accuracy(reference, builds, campaign)
    engines = [
        _engine(name, reference, floor, builds, campaign)
        for name in builds
        if campaign is None or campaign["results"].get(name, {}).get("outputs_ok") is not False
    ]
    return tuple(engines[1:] or engines)


def _engine(
    name: str, reference: str, floor: float, builds: Mapping[str, Outcome], campaign: Mapping[str, Any] | None
) -> Engine:
    from pipeline.benchmarking.analysis import find_comparison

    size_bytes, accuracy = int(str(builds[name].entry.meta["size_bytes"])), _accuracy(name, builds, campaign)
    known: dict[str, Any] = {"latency_ms": None, "latency_ratio": None, "memory_bytes": None}
    if campaign is not None and name in campaign["results"]:
        result = campaign["results"][name]
        peak = result["memory"]["run_peak"]
        compared = reference in campaign["results"] and name != reference
        own = 1.0 if name == reference else None
        known = {
            "latency_ms": result["latency_ms"]["value"],
            "latency_ratio": float(find_comparison(campaign, name, reference)["ratio"]) if compared else own,
            "memory_bytes": None if peak is None else peak["max_bytes"],
            "latency_p95_ms": ((result.get("tail_ms") or {}).get("p95") or {}).get("upper99"),
            "energy_mj": ((campaign.get("energy", {}).get(name) or {}).get("gross_mj") or {}).get("median"),
        }
    return Engine(name=name, accuracy=accuracy, accuracy_drop=floor - accuracy, size_bytes=size_bytes, **known)


def _accuracy(name: str, builds: Mapping[str, Outcome], campaign: Mapping[str, Any] | None) -> float:
    scored = (campaign or {}).get("accuracy_on_device", {}).get(name)
    return float(scored["value"] if scored else str(builds[name].entry.meta["accuracy"]))
