"""The rule of the gate: what meets the budget may ship, and of those only a shown winner replaces the one before.

Float candidates come first, the uncompressed one before the pruned one, integer ones last, and within these the engine
of first choice before others. Each challenges the best so far:

=====================  ========================================================
the measurement says   and so
=====================  ========================================================
faster                 the challenger takes the place (by little too)
same                   the smaller file takes it
slower, not shown      the one before keeps it
nothing (grade F)      the one before keeps it: a void measurement shows nothing
of one alone           it takes or keeps the place: the other one cannot be measured
=====================  ========================================================

A candidate whose timed outputs were wrong never ships while another one can. One whose measurement is void otherwise
(throttled, no steady state) is held to the ceilings all the same: such a latency errs on the slow side. Without a
measurement of any the smaller file wins among those of one engine, the engine of first choice before others, and every
text says that latency was not measured. A candidate that could not be measured where others were meets no ceiling of
latency or memory, as nobody knows its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.recipe import BudgetSection
from targets.words import counted

MIB: Final = 1 << 20
_ROUNDING: Final = 1e-9  # an accuracy exactly at the floor meets it
_WRONG: Final = 1e9  # worse than any miss of a limit
_UNKNOWN: Final = 1e6  # worse than any measured miss, better than wrong outputs
_WHY_UNKNOWN: Final = "too few samples, no sensor on that device, or a void comparison"
_MANY_BLOCKS: Final = 200

Comparer = Callable[[str, str], Mapping[str, Any]]  # (challenger, incumbent) -> verdict, ratio, ci95


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the gate knows of an engine.

    Attributes:
        name: Its name.
        precision: ``fp32``, ``int8``, ...
        accuracy: The task's metric on the validation split.
        metric: Its name.
        scored_on: The device that accuracy was measured on; empty for the machine that built the engine.
        size_bytes: The engine file.
        latency_ms: Median latency; None when not measured.
        latency_p95_ms: Upper bound of the 95th percentile; None when not measured, or of too few samples.
        energy_mj: Of one inference; None when not measured.
        latency_ratio: Latency over the uncompressed reference's, in the same campaign; None where not compared.
        memory_bytes: Peak memory while it runs; None when not measured.
        outputs_ok: Whether the timed outputs were right.
        void: Why its measurement is void (grade F); empty when it is not.
        unmeasured: Why it could not be measured where others were; empty when it was.
        runs_by: What runs it: the engine and its provider or device. Sizes are compared within one alone.
    """

    name: str
    precision: str
    accuracy: float
    size_bytes: int
    latency_ms: float | None
    memory_bytes: int | None
    outputs_ok: bool
    void: str = ""
    scored_on: str = ""
    unmeasured: str = ""
    runs_by: str = ""
    metric: str = "accuracy"
    latency_p95_ms: float | None = None
    energy_mj: float | None = None
    latency_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What ships.

    Attributes:
        chosen: The candidate's name.
        met_budget: False when nothing meets the budget and the closest was taken.
        reasons: Why, one line each.
        of_each: What the gate says of each candidate.
    """

    chosen: str
    met_budget: bool
    reasons: tuple[str, ...]
    of_each: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Excess:
    """A limit that is missed, and by which share of it."""

    text: str
    ratio: float


def decide(candidates: Sequence[Candidate], budget: BudgetSection, compare: Comparer | None) -> Decision:
    """Which of ``candidates`` ships.

    Args:
        candidates: The first one is the uncompressed reference.
        budget: Floor and ceilings.
        compare: Verdicts of the campaign; None when nothing was measured. Never asked of one that was not measured.
    """
    if all(candidate.unmeasured for candidate in candidates):
        candidates, compare = [replace(candidate, unmeasured="") for candidate in candidates], None
    reference, preferred = candidates[0], _preferred(candidates)
    missed = {candidate.name: _excesses(candidate, reference, budget) for candidate in candidates}
    of_each: dict[str, list[str]] = {name: [excess.text for excess in excesses] for name, excesses in missed.items()}
    best: Candidate | None = None
    for candidate in candidates:
        if missed[candidate.name]:
            continue
        if best is None:
            of_each[candidate.name].append("meets the budget")
            best = candidate
            continue
        wins, why = _challenge(candidate, best, compare, preferred)
        of_each[candidate.name].append(why)
        best = candidate if wins else best
    if best is None:
        closest = min(candidates, key=lambda candidate: sum(excess.ratio for excess in missed[candidate.name]))
        reasons = tuple(excess.text for excess in missed[closest.name])
        return Decision(chosen=closest.name, met_budget=False, reasons=reasons, of_each=_frozen(of_each))
    return Decision(chosen=best.name, met_budget=True, reasons=tuple(of_each[best.name]), of_each=_frozen(of_each))


def _frozen(of_each: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(reasons) for name, reasons in of_each.items()}


def _preferred(candidates: Sequence[Candidate]) -> str:
    """What runs the reference, or, where it runs nothing else, what runs the first of the others."""
    engines = [candidate.runs_by for candidate in candidates]
    return engines[0] if engines[0] in engines[1:] else engines[min(1, len(engines) - 1)]


def _challenge(challenger: Candidate, best: Candidate, compare: Comparer | None, preferred: str) -> tuple[bool, str]:
    smaller = challenger.size_bytes < best.size_bytes
    comparable = challenger.runs_by in {best.runs_by, preferred}
    sizes = f"{challenger.size_bytes:,} against {best.size_bytes:,} bytes"
    if compare is None:
        if not comparable:
            return False, f"latency was not measured; the target prefers the engine of {best.name}"
        return (
            smaller,
            f"latency was not measured; {'smaller' if smaller else 'not smaller'} than {best.name} ({sizes})",
        )
    if challenger.unmeasured or best.unmeasured:
        return _not_both_measured(challenger, best, sizes, comparable=comparable)
    return _compared(challenger, best, compare, sizes)


def _compared(challenger: Candidate, best: Candidate, compare: Comparer, sizes: str) -> tuple[bool, str]:
    smaller = challenger.size_bytes < best.size_bytes
    void = next((item for item in (challenger, best) if item.void), None)
    if void is not None:
        return False, f"not shown to be faster: the measurement of {void.name} is void ({void.void})"
    found = compare(challenger.name, best.name)
    verdict, times = str(found["verdict"]), _times(found, best.name)
    if verdict.startswith("faster"):
        return True, f"{verdict}: {times}"
    if verdict.startswith("same"):
        within = f" within {_percent(found['delta'])}" if found.get("delta") else ""
        return smaller, f"as fast as {best.name}{within}, {'smaller' if smaller else 'not smaller'}: {sizes}"
    if verdict.startswith("slower"):
        return False, f"{verdict}: {times}"
    withheld = f"; {found['reason']}" if found.get("reason") else ""
    return False, f"not shown to be faster: {times}{withheld or blocks_text(found)}"


def _not_both_measured(challenger: Candidate, best: Candidate, sizes: str, *, comparable: bool) -> tuple[bool, str]:
    if not best.unmeasured:
        return False, f"not shown to be faster: it is not measured ({challenger.unmeasured})"
    if not challenger.unmeasured:
        return True, f"measured, which {best.name} is not ({best.unmeasured})"
    if not comparable:
        return False, f"neither it nor {best.name} is measured; the target prefers the engine of {best.name}"
    smaller = challenger.size_bytes < best.size_bytes
    return smaller, f"neither it nor {best.name} is measured; {'' if smaller else 'not '}smaller: {sizes}"


def blocks_text(found: Mapping[str, Any]) -> str:
    """How many blocks would tell two candidates apart, where this campaign did not have enough of them."""
    needed = found.get("blocks_needed")
    if not needed or needed <= found.get("blocks", 0):
        return ""
    if needed > _MANY_BLOCKS:
        return "; no campaign of a sensible length would show it"
    return f"; about {counted(needed, 'block')} would show it"


def _times(found: Mapping[str, Any], incumbent: str) -> str:
    """``2.21x the speed of fp32 (95 % interval 2.00 to 2.47, A/A noise +-0.8 %)``."""
    known = []
    interval = found.get("ci95")
    if interval is not None:
        known.append(f"95 % interval {1 / interval[1]:.2f} to {1 / interval[0]:.2f}")
    if found.get("noise_percent") is not None:
        known.append(f"A/A noise ±{found['noise_percent']:.1f} %")
    return f"{1 / float(found['ratio']):.2f}x the speed of {incumbent}" + (f" ({', '.join(known)})" if known else "")


def _percent(ratio: float) -> str:
    """A difference as a share: 0.01, or 1.01, is 1.0 %."""
    return f"±{100 * (ratio - 1 if ratio > 1 else ratio):.1f} %"


def _excesses(candidate: Candidate, reference: Candidate, budget: BudgetSection) -> list[_Excess]:
    found = [] if candidate.outputs_ok else [_Excess(text="its outputs were wrong while it was timed", ratio=_WRONG)]
    if unknown := _unknown(candidate, budget):
        text = f"nobody knows whether it meets {' and '.join(unknown)}: {candidate.unmeasured or _WHY_UNKNOWN}"
        found.append(_Excess(text=text, ratio=_UNKNOWN))
    floor = reference.accuracy - budget.accuracy_drop
    if candidate.accuracy < floor - _ROUNDING:
        where = f" on device {candidate.scored_on}" if candidate.scored_on else ""
        text = (
            f"{candidate.metric} {candidate.accuracy:.4f}{where} is below the floor {floor:.4f} "
            f"(reference {reference.accuracy:.4f})"
        )
        found.append(_Excess(text=text, ratio=(floor - candidate.accuracy) / max(budget.accuracy_drop, 0.001)))
    limits = (
        ("latency", candidate.latency_ms, budget.latency_ms, "ms", "latency_ms"),
        ("latency", candidate.latency_ratio, budget.latency_ratio, "of the uncompressed engine's", "latency_ratio"),
        ("95th percentile", candidate.latency_p95_ms, budget.latency_p95_ms, "ms", "latency_p95_ms"),
        ("energy", candidate.energy_mj, budget.energy_mj, "mJ an inference", "energy_mj"),
        ("peak memory", _in_mib(candidate.memory_bytes), budget.memory_mb, "MiB", "memory_mb of recipe or target"),
        (
            "size",
            _in_mib(candidate.size_bytes),
            budget.size_mb,
            "MiB",
            "size_mb of the recipe, or the target's storage_mb",
        ),
    )
    for subject, value, ceiling, unit, key in limits:
        if value is not None and ceiling is not None and value > ceiling:
            text = f"{subject} {value:.4g} {unit} is over the ceiling {ceiling:.4g} {unit} ({key})"
            found.append(_Excess(text=text, ratio=value / ceiling - 1))
    return found


def _unknown(candidate: Candidate, budget: BudgetSection) -> list[str]:
    """Ceilings that nobody can hold the candidate to, as a campaign did not give its own figure."""
    known = {
        "latency_ms": candidate.latency_ms,
        "latency_ratio": candidate.latency_ratio,
        "latency_p95_ms": candidate.latency_p95_ms,
        "memory_mb": candidate.memory_bytes,
        "energy_mj": candidate.energy_mj,
    }
    asked = [key for key in known if getattr(budget, key) is not None]
    if candidate.unmeasured:
        return asked
    return [key for key in asked if key in {"latency_ratio", "latency_p95_ms", "energy_mj"} and known[key] is None]


def _in_mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / MIB
