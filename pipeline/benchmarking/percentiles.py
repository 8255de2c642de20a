"""Percentiles of single inferences: only with enough samples, and never without an upper bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.benchmarking.distributions import binomial_at_most

LICENCE: Final[Mapping[str, tuple[float, int]]] = {
    "p90": (0.90, 64),
    "p95": (0.95, 130),
    "p99": (0.99, 662),
    "p99.9": (0.999, 6636),
}
_BOUND_RISK: Final = 0.01
_NOTABLE_RHO: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile of single inferences: its value and a 99 % upper bound, or the reason why there is none."""

    value: float | None
    upper99: float | None
    n: int
    reason: str | None


def percentile(name: str, samples: Sequence[float] | np.ndarray, rho: float = 0.0) -> Percentile:
    """A percentile of pooled samples, with a distribution-free upper bound at 99 % confidence.

    The bound is the largest order statistic below which the true percentile lies with 99 % confidence, at least one
    sample beyond it: the early-stopping rule of MLPerf's loadgen, with its minimum counts 64, 130, 662 and 6636.
    Correlated samples count for less: n (1 - rho) / (1 + rho) when rho > 0.2.

    Args:
        name: ``p90``, ``p95``, ``p99`` or ``p99.9``.
        samples: Single inferences of all processes, shape (n,).
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
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    allowed = _allowed_exceedances(effective, 1 - p)
    beyond = min(n - 1, math.floor(allowed * n / effective))
    return Percentile(value=_quantile(ordered, p), upper99=float(ordered[n - 1 - beyond]), n=n, reason=None)


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


def _quantile(ordered: np.ndarray, p: float) -> float:
    """Linear interpolation between order statistics (type 7 of Hyndman and Fan 1996, numpy's default)."""
    position = p * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (position - below))
