"""What is known of a tried candidate, what it misses of the budget, and which of several is best. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.recipe import BudgetSection
    from pipeline.recipe.searching import Objective

MIB: Final = 1 << 20
FLOOR: Final = "accuracy_drop"
_UNMEASURED_EXCESS: Final = 1e6
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine of a tried recipe.

    Attributes:
        name: ``int8``, ``openvino-int8``, ...
        accuracy: The task's metric on the validation split.
        accuracy_drop: Loss against the uncompressed float model.
        latency_ms: Median; None where it was not measured.
        latency_ratio: Against the uncompressed float engine, in the same interleaved campaign.
        size_bytes: The engine file.
        memory_bytes: Peak while it runs; None where it was not measured.
        latency_p95_ms: Upper bound of the 95th percentile; None where there were too few samples.
        energy_mj: Millijoules of one inference; None without a sensor.
    """

    name: str
    accuracy: float
    accuracy_drop: float
    latency_ms: float | None
    latency_ratio: float | None
    size_bytes: int
    memory_bytes: int | None
    latency_p95_ms: float | None = None
    energy_mj: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A limit that is missed.

    Attributes:
        limit: The budget's key.
        value: What the engine has; None where nobody knows.
        bound: What the budget allows.
        ratio: By which share of the bound it is missed, for sorting.
    """

    limit: str
    value: float | None
    bound: float
    ratio: float

    def text(self) -> str:
        """By how much the limit would have to move."""
        if self.value is None:
            return f"{self.limit} {self.bound:.4g} cannot be checked: it was not measured"
        return f"{self.limit} would have to be {self.value:.4g} instead of {self.bound:.4g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A candidate recipe that was tried to its end.

    Attributes:
        number: Of the trial.
        point: What varied.
        engine: The best of its engines: the least violating, then the best in the first objective.
        excesses: What that one misses of the budget; empty when it is feasible.
    """

    number: int
    point: Mapping[str, Any]
    engine: Engine
    excesses: tuple[Excess, ...]

    @property
    def feasible(self) -> bool:
        """Whether it meets the budget, as far as screening shows."""
        return not self.excesses


def excesses_of(engine: Engine, budget: BudgetSection, *, regain: float = 0.0) -> tuple[Excess, ...]:
    """What an engine misses of the budget, the floor first.

    Args:
        engine: The engine.
        budget: Floor and ceilings.
        regain: Share of the accuracy lost that longer training is expected to give back.
    """
    found: list[Excess] = []
    drop = engine.accuracy_drop * (1 - regain) if engine.accuracy_drop > 0 else engine.accuracy_drop
    if drop > budget.accuracy_drop + _ROUNDING:
        over = (drop - budget.accuracy_drop) / max(budget.accuracy_drop, 0.001)
        found.append(Excess(limit=FLOOR, value=drop, bound=budget.accuracy_drop, ratio=over))
    values = {
        "latency_ms": engine.latency_ms,
        "latency_ratio": engine.latency_ratio,
        "latency_p95_ms": engine.latency_p95_ms,
        "memory_mb": None if engine.memory_bytes is None else engine.memory_bytes / MIB,
        "size_mb": engine.size_bytes / MIB,
        "energy_mj": engine.energy_mj,
    }
    for limit, value in values.items():
        bound = getattr(budget, limit, None)
        if bound is None:
            continue
        if value is None:
            found.append(Excess(limit=limit, value=None, bound=bound, ratio=_UNMEASURED_EXCESS))
        elif value > bound:
            found.append(Excess(limit=limit, value=value, bound=bound, ratio=value / bound - 1))
    return tuple(found)


def best_engine(
    engines: Sequence[Engine], budget: BudgetSection, objective: Objective, *, regain: float = 0.0
) -> tuple[Engine, tuple[Excess, ...]]:
    """The engine that would ship: the least violating, of equals the best in ``objective``; and what it misses."""
    judged = [(engine, excesses_of(engine, budget, regain=regain)) for engine in engines]
    first = bool(regain)
    return min(judged, key=lambda pair: (_violation(pair[1], ceilings_first=first), cost(pair[0], objective)))


def cost(engine: Engine, objective: Objective) -> float:
    """An objective as a number, smaller is better; infinite where nobody knows it."""
    if objective == "accuracy":
        return engine.accuracy_drop
    if objective == "size":
        return float(engine.size_bytes)
    value = engine.latency_ratio if objective == "latency" else engine.memory_bytes
    return float("inf") if value is None else float(value)


def best(tried: Iterable[Tried], objective: Objective, *, ceilings_first: bool = False) -> Tried | None:
    """The best candidate: feasible before infeasible, then the first objective; of equals the first tried.

    Args:
        tried: Candidates.
        objective: What decides between equals.
        ceilings_first: Of infeasible ones, those that miss only the floor come before all others.
    """

    def order(one: Tried) -> tuple[tuple[float, float], float, int]:
        return _violation(one.excesses, ceilings_first=ceilings_first), cost(one.engine, objective), one.number

    return min(tried, key=order, default=None)


def front(tried: Sequence[Tried], objectives: Sequence[Objective]) -> tuple[Tried, ...]:
    """The candidates that no other one beats in every objective, best in the first one first.

    Infeasible ones take part: the front shows what giving way on the budget would buy.
    """
    costs = {one.number: tuple(cost(one.engine, objective) for objective in objectives) for one in tried}
    kept = [
        one
        for one in tried
        if not any(_dominates(costs[other.number], costs[one.number], other.number < one.number) for other in tried)
    ]
    return tuple(sorted(kept, key=lambda one: (costs[one.number], one.number)))


def _dominates(a: Sequence[float], b: Sequence[float], earlier: bool) -> bool:  # noqa: FBT001 - of equals the first stays
    return all(x <= y for x, y in zip(a, b, strict=True)) and (tuple(a) != tuple(b) or earlier)


def _violation(excesses: Sequence[Excess], *, ceilings_first: bool = False) -> tuple[float, float]:
    """By how much the ceilings are missed, and all limits together; the first is 0 where it does not come first."""
    ceilings = sum(excess.ratio for excess in excesses if excess.limit != FLOOR)
    return (ceilings if ceilings_first else 0.0), sum(excess.ratio for excess in excesses)
