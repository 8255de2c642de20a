"""Student's t and the binomial distribution, through the regularised incomplete beta function; no SciPy at run time."""

from __future__ import annotations

import functools
import math
from typing import Final

_TINY: Final = 1e-300
_EPSILON: Final = 1e-15
_MAX_TERMS: Final = 10_000


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, for ``a, b > 0`` and ``0 <= x <= 1``.

    Lentz's continued fraction: Press et al., Numerical Recipes (2nd ed., 1992), section 6.4.
    """
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front * _continued_fraction(a, b, x) / a


def _continued_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    d = 1.0 / d
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _EPSILON:
            return value
    raise ArithmeticError(f"the incomplete beta function does not converge at a={a}, b={b}, x={x}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def t_two_sided(t: float, degrees: int) -> float:
    """P(|T| >= |t|) for Student's t with ``degrees`` degrees of freedom."""
    if t * t < degrees:  # the same by symmetry; t * t would vanish beside the degrees
        return 1.0 - incomplete_beta(0.5, degrees / 2, t * t / (degrees + t * t))
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


@functools.cache
def t_quantile(degrees: int, confidence: float = 0.95) -> float:
    """The t with P(|T| <= t) = ``confidence``, by bisection.

    Raises:
        ValueError: There is no degree of freedom, or the confidence is not between 0 and 1.
    """
    if degrees < 1 or not 0 < confidence < 1:
        raise ValueError(f"no t quantile for {degrees} degrees of freedom at confidence {confidence}")
    low, high = 0.0, 1.0
    while t_two_sided(high, degrees) > 1 - confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if t_two_sided(middle, degrees) > 1 - confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def binomial_at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else incomplete_beta(n - k, k + 1, 1 - p)
