"""What repeated measurements allow to say: a latency with its interval, percentiles with a licence, paired verdicts.

The unit of repetition is the fresh process (one median each), never the single iteration: intervals from pooled
iterations are far too narrow (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from pipeline.benchmarking.distributions import binomial_at_most, t_quantile, t_two_sided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Verdict = Literal["faster", "faster by little", "same", "slower by little", "slower", "not shown"]

SMALLEST_DELTA: Final = 0.01  # differences below 1 % are never called a difference
LICENCE: Final[Mapping[str, tuple[float, int]]] = {
    "p90": (0.90, 64),
    "p95": (0.95, 130),
    "p99": (0.99, 662),
    "p99.9": (0.999, 6636),
}
_BOUND_RISK: Final = 0.01
_NOTABLE_RHO: Final = 0.2
_ALPHA: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % confidence interval, over ``k`` processes; no interval for one process."""

    value: float
    low: float | None
    high: float | None
    k: int

    @property
    def half_width_ratio(self) -> float:
        """Half the interval's width on the log scale, about its relative half-width; infinite without an interval."""
        if self.low is None or self.high is None or self.low <= 0:
            return math.inf
        return math.log(self.high / self.low) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile of single inferences: its value and a 99 % upper bound, or the reason why there is none."""

    value: float | None
    upper99: float | None
    n: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One engine against another, paired by block.

    Attributes:
        a: The engine judged.
        b: What it is compared with.
        metric: What was compared; smaller is better.
        ratio: ``a`` / ``b``; below 1, ``a`` is faster.
        low: Lower end of the 95 % interval of the ratio; None with fewer than two blocks.
        high: Its upper end.
        delta_ratio: Differences up to this count as none.
        p: Two-sided p-value of "no difference", after Holm's correction for several comparisons.
        blocks: Blocks used.
        blocks_needed: Blocks that would about decide a `not shown`; None when decided.
        verdict: What may be said of ``a``.
    """

    a: str
    b: str
    metric: str
    ratio: float
    low: float | None
    high: float | None
    delta_ratio: float
    p: float
    blocks: int
    blocks_needed: int | None
    verdict: Verdict


def log_interval(values: Sequence[float]) -> Interval:
    """exp(mean ln m) of process medians, with a t interval on the log scale.

    Args:
        values: One positive number a process.

    Raises:
        ValueError: There is none, or one is not positive.
    """
    if not values or min(values) <= 0:
        raise ValueError("a latency needs at least one positive process median")
    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / len(logs)
    if len(logs) == 1:
        return Interval(value=math.exp(mean), low=None, high=None, k=1)
    half = t_quantile(len(logs) - 1) * _standard_error(logs)
    return Interval(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), k=len(logs))


def percentile(name: str, samples: Sequence[float], rho: float = 0.0) -> Percentile:
    """A percentile of pooled samples, with a distribution-free upper bound at 99 % confidence.

    The bound is the largest order statistic below which the true percentile lies with 99 % confidence, at least one
    sample beyond it: the early-stopping rule of MLPerf's loadgen, with its minimum counts 64, 130, 662 and 6636.
    Correlated samples count for less: n (1 - rho) / (1 + rho) when rho > 0.2.

    Args:
        name: ``p90``, ``p95``, ``p99`` or ``p99.9``.
        samples: Single inferences of all processes.
        rho: Their lag-1 autocorrelation, averaged over processes.
    """
    p, need = LICENCE[name]
    n = len(samples)
    effective = math.floor(n * (1 - rho) / (1 + rho)) if rho > _NOTABLE_RHO else n
    if effective < need:
        have = (
            f"have {effective}"
            if effective == n
            else f"have {n} that count for {effective} (autocorrelation {rho:.2f})"
        )
        return Percentile(value=None, upper99=None, n=n, reason=f"need {need}, {have}")
    ordered = sorted(samples)
    allowed = _allowed_exceedances(effective, 1 - p)
    beyond = min(n - 1, math.floor(allowed * n / effective))
    return Percentile(value=_quantile(ordered, p), upper99=ordered[n - 1 - beyond], n=n, reason=None)


def compare(
    a: str, b: str, pairs: Sequence[tuple[float, float]], *, metric: str = "latency_ms", noise_ratio: float = 0.0
) -> Comparison:
    """One comparison from interleaved blocks, before Holm's correction.

    Args:
        a: The engine judged.
        b: What it is compared with.
        pairs: The two process medians of each block.
        metric: What was measured; smaller is better.
        noise_ratio: Upper end of what the same engine differed from itself (A/A), when it was measured.

    Raises:
        ValueError: There is no pair.
    """
    if not pairs:
        raise ValueError(f"no block has both {a} and {b}")
    differences = [math.log(x / y) for x, y in pairs]
    delta = max(SMALLEST_DELTA, noise_ratio)
    mean, k = math.fsum(differences) / len(differences), len(differences)
    if k == 1:
        return Comparison(
            a=a, b=b, metric=metric, ratio=math.exp(mean), low=None, high=None, delta_ratio=delta, p=1.0, blocks=1,
            blocks_needed=2, verdict="not shown",
        )  # fmt: skip
    error = _standard_error(differences)
    half = t_quantile(k - 1) * error
    p = t_two_sided(mean / error, k - 1) if error > 0 else float(mean == 0)
    verdict = _verdict(mean - half, mean + half, math.log1p(delta))
    return Comparison(
        a=a, b=b, metric=metric, ratio=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half),
        delta_ratio=delta, p=p, blocks=k, blocks_needed=_blocks_needed(verdict, differences, delta), verdict=verdict,
    )  # fmt: skip


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p-values corrected for their number (Holm 1979); a difference above 5 % is not shown.

    `same` stays: it claims equivalence by its interval, not a difference.
    """
    order = sorted(range(len(comparisons)), key=lambda i: comparisons[i].p)
    corrected, worst = [0.0] * len(comparisons), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, comparisons[i].p * (len(order) - rank)))
        corrected[i] = worst
    return [_with_p(c, p) for c, p in zip(comparisons, corrected, strict=True)]


def _with_p(comparison: Comparison, p: float) -> Comparison:
    lost = p > _ALPHA and comparison.verdict not in {"same", "not shown"}
    if not lost:
        return replace(comparison, p=p)
    return replace(comparison, p=p, verdict="not shown", blocks_needed=comparison.blocks + 1)


def _verdict(low: float, high: float, delta: float) -> Verdict:
    if high < -delta:
        return "faster"
    if low > delta:
        return "slower"
    if -delta <= low and high <= delta:
        return "same"
    if high < 0:
        return "faster by little"
    return "slower by little" if low > 0 else "not shown"


def _blocks_needed(verdict: Verdict, differences: Sequence[float], delta: float) -> int | None:
    if verdict != "not shown":
        return None
    k = len(differences)
    return max(k + 1, math.ceil((t_quantile(k - 1) * _standard_error(differences) * math.sqrt(k) / delta) ** 2))


def _standard_error(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def _allowed_exceedances(n: int, q: float) -> int:
    """The largest t with P(Binomial(n, q) <= t) <= 1 %: so many samples may lie beyond the upper bound."""
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_at_most(middle, n, q) <= _BOUND_RISK:
            low = middle
        else:
            high = middle
    return low


def _quantile(ordered: Sequence[float], p: float) -> float:
    """Linear interpolation between order statistics (type 7 of Hyndman and Fan 1996, numpy's default)."""
    position = p * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
