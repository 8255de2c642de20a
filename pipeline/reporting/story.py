"""The run at a glance: one short sentence, the steps that changed the model, and who is on the front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.reporting import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.reporting.schema import Candidate, RunReport, Stage

_FLOOR: Final = "below the floor"  # how the gate says so
_STEPS: Final = {
    "train": "train", "load": "load", "import": "import", "finetune": "fine-tune", "surgery": "surgery",
    "depth": "drop blocks", "prune": "prune", "sparsify": "sparsify", "student": "student", "distill": "distill",
    "quantize": "quantize", "convert": "convert", "halve": "halve", "build": "build",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that changed the model.

    Attributes:
        name: In a word.
        figures: What the model is like then, each with its unit.
        last: Whether it is what ships.
    """

    name: str
    figures: tuple[str, ...]
    last: bool = False


def headline(report: RunReport) -> str:
    """What ships and what that brought, in one short sentence."""
    shipped = report.shipped
    if shipped is None:
        return report.verdict.sentence
    reference = report.candidates[0]
    start = (
        f"{shipped.name} ships" if report.verdict.met_budget else f"Nothing meets the budget; {shipped.name} is closest"
    )
    if shipped is reference:
        others = [" ".join(candidate.reasons) for candidate in report.candidates[1:]]
        return f"{start}: {nothing_better(others, report.task.metric)}." if others else f"{start}."
    speed = _speed(shipped)
    gains = [speed, _accuracy(report, shipped, reference), _size(shipped, reference, named=reference.name in speed)]
    return f"{start}: {', '.join(gain for gain in gains if gain)}."


def nothing_better(others: Sequence[str], metric: str) -> str:
    """Why the reference ships, from what the gate says of each of the others."""
    if all(_FLOOR in said for said in others):
        return f"every compressed candidate is below the {metric} floor"
    return "no compressed candidate was shown to be better"


def _speed(shipped: Candidate) -> str:
    if shipped.latency_ms is None:
        return "latency not measured"
    if shipped.quality == "F":
        return "its measurement is void"
    compared = shipped.vs_reference
    if compared is None:
        return ""
    times = text.speedup(compared).partition(" [")[0]
    said = {
        "faster": f"{times} faster than {compared.reference}",
        "same": f"as fast as {compared.reference}",
        "slower": f"{times} the speed of {compared.reference}",
    }
    unclear = f"not shown to be faster than {compared.reference}"
    return next((words for verdict, words in said.items() if compared.verdict.startswith(verdict)), unclear)


def _accuracy(report: RunReport, shipped: Candidate, reference: Candidate) -> str:
    if shipped.accuracy is None or reference.accuracy is None:
        return ""
    if shipped.accuracy == reference.accuracy:
        return f"the same {report.task.metric}"
    return f"{text.points(shipped.accuracy, reference.accuracy, report.task.metric)} of {report.task.metric}"


def _size(shipped: Candidate, reference: Candidate, *, named: bool) -> str:
    if not shipped.size_bytes or not reference.size_bytes:
        return ""
    whose = "its size" if named else f"the size of {reference.name}"
    return f"{100 * shipped.size_bytes / reference.size_bytes:.0f} % of {whose}"


def steps(report: RunReport) -> list[Step]:
    """The way from the model that was given to the engine that ships; other candidates' builds are left out."""
    shipped = report.verdict.shipped
    builds = [c.name for c in report.candidates]
    found: list[Step] = []
    for stage in report.stages:
        kind, _, variant = stage.stage.partition(":")
        if kind not in _STEPS or (kind == "build" and variant != shipped):
            continue
        if kind != "build" and found and [shipped] == builds[:1]:
            continue  # the model as it was given ships: what came after the first step is not in it
        if kind in {"quantize", "convert", "halve"} and not _leads_to(stage, report, builds):
            continue
        figures = _figures(stage, report.task.metric)
        if figures:
            found.append(Step(name=variant if kind == "build" else _STEPS[kind], figures=figures, last=kind == "build"))
    return found


def _leads_to(stage: Stage, report: RunReport, builds: Sequence[str]) -> bool:
    """Whether what ships can have come this way: an int8 file ships as int8."""
    shipped = report.shipped
    if shipped is None or [shipped.name] == builds[:1]:
        return False
    kind, _, variant = stage.stage.partition(":")
    return "int8" in shipped.precision and not variant if kind == "quantize" else shipped.name.endswith(variant)


def _figures(stage: Stage, metric: str) -> tuple[str, ...]:
    metrics = stage.metrics
    told = (
        "" if metrics.accuracy is None else f"{text.score(metrics.accuracy, metric)}",
        "" if metrics.parameters is None else f"{text.count(metrics.parameters)} parameters",
        "" if metrics.parameters is not None else text.size(metrics.size_bytes).replace(text.NONE, ""),
        "" if metrics.latency_ms is None else text.milliseconds(metrics.latency_ms.value),
    )
    return tuple(item for item in told if item)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats in accuracy and latency, the fastest first."""
    known = [c for c in candidates if c.latency_ms is not None and c.accuracy is not None]
    known.sort(key=lambda c: (c.latency_ms.value if c.latency_ms else 0.0, -(c.accuracy or 0.0)))
    best, kept = float("-inf"), []
    for candidate in known:
        if candidate.accuracy is not None and candidate.accuracy > best:
            best = candidate.accuracy
            kept.append(candidate)
    return kept
