"""What repeated measurements allow to say: a latency with its interval, and verdicts from pairs of one block.

The unit of repetition is the fresh process (one median each), never the single iteration: intervals from pooled
iterations are far too narrow (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).

A campaign looks at its intervals at fixed numbers of blocks and stops when they are narrow, which favours campaigns
whose scatter came out small by chance. Uncorrected, nominal 95 % intervals then cover 93.0 % where processes scatter by
2 % (and up to 5.8 % of comparisons of an engine with itself claim a difference). So intervals of more than the 7 blocks
of the first look are taken at 96 %: the whole procedure then covers 94.0 to 96.1 % at any normal scatter (40,000
simulated campaigns each, looks at 7, 10, 15, 20, 30 and at 15, 20, 30, 40, one and two engines).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from pipeline.benchmarking.distributions import t_quantile, t_two_sided
from pipeline.benchmarking.percentiles import LICENCE, Percentile, percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "LICENCE", "Comparison", "Interval", "Percentile", "Verdict", "compare", "confidence", "holm", "log_interval",
    "percentile", "round_to_interval",
]  # fmt: skip

Verdict = Literal[
    "faster", "faster by little", "same", "slower by little", "slower", "not shown",
    "lower", "lower by little", "higher by little", "higher",
]  # fmt: skip
"""Of times: faster, slower; of everything else (bytes, joules): lower, higher."""

SMALLEST_DELTA: Final = 0.01  # differences below 1 % are never called a difference
_ALPHA: Final = 0.05
_FIRST_LOOK: Final = 7
_LATER_CONFIDENCE: Final = 0.96
_OF_TIME: Final = ("_ms", "ms_per_inference")
_OF_AMOUNT: Final[Mapping[Verdict, Verdict]] = {
    "faster": "lower",
    "faster by little": "lower by little",
    "slower by little": "higher by little",
    "slower": "higher",
}


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


def confidence(k: int) -> float:
    """The confidence at which a 95 % interval over ``k`` processes is taken, so that it covers 95 % after all looks."""
    return 1 - _ALPHA if k <= _FIRST_LOOK else _LATER_CONFIDENCE


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
    half = t_quantile(len(logs) - 1, confidence(len(logs))) * _standard_error(logs)
    return Interval(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), k=len(logs))


def compare(
    a: str, b: str, pairs: Sequence[tuple[float, float]], *, metric: str = "latency_ms", noise_ratio: float = 0.0
) -> Comparison:
    """One comparison from interleaved blocks, before Holm's correction.

    Args:
        a: The engine judged.
        b: What it is compared with.
        pairs: The two process medians of each block.
        metric: What was measured; smaller is better. Names ending in ``_ms`` are times.
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
    half = t_quantile(k - 1, confidence(k)) * error
    p = t_two_sided(mean / error, k - 1) if error > 0 else float(mean == 0)
    verdict = _verdict(mean - half, mean + half, math.log1p(delta))
    word = verdict if metric.endswith(_OF_TIME) else _OF_AMOUNT.get(verdict, verdict)
    return Comparison(
        a=a, b=b, metric=metric, ratio=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half),
        delta_ratio=delta, p=p, blocks=k, blocks_needed=_blocks_needed(verdict, differences, delta), verdict=word,
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


def round_to_interval(value: float, low: float, high: float, unit: str = "") -> str:
    """Only the digits that the interval supports: ``7.6 ms [7.4, 7.8]``.

    The interval's half-width is shown with one digit, with two when its first is a 1.

    Args:
        value: The estimate.
        low: Lower end of its interval.
        high: Upper end.
        unit: What follows the value.

    Raises:
        ValueError: A number is not finite, or the ends are the wrong way round.
    """
    if not (math.isfinite(value) and math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"no interval: {value} [{low}, {high}]")
    half = (high - low) / 2 or abs(value) * 1e-3 or 1.0
    exponent = math.floor(math.log10(half))
    places = -exponent + (1 if half / 10.0**exponent < 2 else 0)  # noqa: PLR2004 - a leading 1
    shown = [f"{round(number, places) + 0.0:.{max(0, places)}f}" for number in (value, low, high)]
    return f"{shown[0]}{' ' + unit if unit else ''} [{shown[1]}, {shown[2]}]"


def _with_p(comparison: Comparison, p: float) -> Comparison:
    lost = p > _ALPHA and comparison.verdict not in {"same", "not shown"}
    if not lost:
        return replace(comparison, p=p)
    return replace(comparison, p=p, verdict="not shown", blocks_needed=_blocks_after_holm(comparison, p))


def _blocks_after_holm(comparison: Comparison, p: float) -> int:
    """Blocks at which the same difference and scatter would about survive the correction."""
    k = comparison.blocks
    strict = 1 - _ALPHA * comparison.p / p
    seen = t_quantile(k - 1, 1 - comparison.p)
    return max(k + 1, math.ceil(k * (t_quantile(k - 1, strict) / seen) ** 2))


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
    spread = _standard_error(differences) * math.sqrt(k)
    return max(k + 1, math.ceil((t_quantile(k - 1, confidence(k)) * spread / delta) ** 2))


def _standard_error(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
