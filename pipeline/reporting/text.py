"""Numbers and words for people: only the digits that are known, and nothing that a terminal or a browser would obey."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.reporting.schema_measured import Comparison, Interval
from pipeline.tasks.names import is_counted, is_share

NONE: Final = "\N{EN DASH}"  # says "no value"
BY_PROCESS: Final = "by process"  # opens the note of a percentile that differs from process to process
TIMES: Final = "\N{MULTIPLICATION SIGN}"
_USELESS: Final = 10  # an interval that reaches so many times the value says nothing in figures
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[mµ]?s|dB|points?|blocks?)(?![a-z]))")
_SHORT_INTERVAL: Final = re.compile(r"\[[^\]]{1,20}\]")
_Z95: Final = 1.959964
_SECRETS: Final = (
    (re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@"), r"\1***@"),
    (re.compile(r"(?i)\b((?:api[_-]?key|token|secret|password|passwd)\s*[=:]\s*)[^\s&'\"]+"), r"\1***"),
    (re.compile(r"\b(?:hf_|ghp_|github_pat_|glpat-|AKIA|xox[abp]-)\w{8,}"), "***"),
)


def presentable(value: Any, *, home: str) -> Any:  # noqa: ANN401 - any plain data
    """Plain data, ready to be shown: control characters spelled out, the home folder as ``~``, credentials starred."""
    if isinstance(value, str):
        return _clean(value, home)
    if isinstance(value, Mapping):
        return {_clean(str(key), home): presentable(item, home=home) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [presentable(item, home=home) for item in value]
    return value


def tied(shown: str) -> str:
    """The same without a place to break a line between a number and its unit, or within a short interval."""
    shown = _UNIT.sub(_NO_BREAK, shown)
    return _SHORT_INTERVAL.sub(lambda found: found[0].replace(" ", _NO_BREAK), shown)


def interval(measured: Interval | None, unit: str) -> str:
    """``0.213 ms [0.210, 0.217]``, as many digits as the interval supports; three where there is none."""
    if measured is None:
        return NONE
    if measured.ci95 is None:
        return f"{number(measured.value)} {unit}"
    value, low, high = supported(measured.value, measured.ci95)
    if measured.ci95[1] > _USELESS * measured.value:
        return f"{value} {unit} [wider than {_USELESS}{TIMES} each way]"
    return f"{value} {unit} [{low}, {high}]"


def supported(value: float, ci95: Sequence[float]) -> tuple[str, str, str]:
    """A value and the ends of its interval, in as many digits as the interval supports."""
    low, high = ci95
    places = max(_places((high - low) / 2, value), _first_digit(value))
    shown = [f"{round(item, places) + 0.0:.{max(0, places)}f}" for item in (value, low, high)]
    return shown[0], shown[1], shown[2]


def spread(measured: Interval) -> str:
    """``95 % CI [0.210, 0.217], 7 processes``."""
    shown = interval(measured, "ms").partition(" [")[2]
    parts = [
        f"95 % CI [{shown}" if shown else "",
        f"{measured.k} process{'' if measured.k == 1 else 'es'}" if measured.k else "",
    ]
    return ", ".join(part for part in parts if part)


def speedup(comparison: Comparison | None) -> str:
    """``2.2x [2.0, 2.5]``, with a real multiplication sign: how many times faster than the reference."""
    if comparison is None:
        return NONE
    return interval(Interval(value=comparison.ratio, ci95=comparison.ci95), TIMES).replace(f" {TIMES}", TIMES)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent: ``0.213``, ``1450``."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 9)}f}"


def milliseconds(value: float | None) -> str:
    """``0.213 ms``."""
    return NONE if value is None else f"{number(value)} ms"


def percentile(value: float | None, note: str) -> tuple[str, str]:
    """A percentile and what it rests on; where processes differ too much for one number, only their range."""
    if note.startswith(BY_PROCESS):
        span, _, rest = note.partition(", ")
        return span, rest
    if value is None:
        return note or NONE, ""
    return milliseconds(value), note


def decibels(value: float | None) -> str:
    """``41.3 dB``."""
    return NONE if value is None else f"{value:.1f} dB"


def shape(sizes: Sequence[int]) -> str:
    """``1x16x32x32`` with real multiplication signs."""
    return TIMES.join(map(str, sizes)) if sizes else NONE


def span(low: float | None, high: float | None) -> str:
    """``-0.53 to 2.1``, one scale of digits for both ends."""
    if low is None or high is None:
        return NONE
    widest = max(abs(low), abs(high))
    places = 0 if widest == 0 else min(9, max(0, 2 - math.floor(math.log10(widest))))
    return f"{low + 0.0:.{places}f} to {high + 0.0:.{places}f}"


def count(value: float | None) -> str:
    """``272 k``, ``41.1 M``: three significant digits."""
    if value is None:
        return NONE
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return number(value / limit) + suffix
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """``284 kB``, ``1.09 MB``: decimal units, three significant digits."""
    return (
        NONE
        if value is None
        else count(value).replace(" k", " kB").replace(" M", " MB").replace(" G", " GB")
        + (
            "" if value >= 1e3 else " B"  # noqa: PLR2004
        )
    )


def seconds(value: float) -> str:
    """``0.03 s``, ``12.4 s``, ``3 min 20 s``."""
    if value >= 120:  # noqa: PLR2004 - two minutes read better as minutes
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest} s"
    return f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def score(value: float | None, metric: str) -> str:
    """A metric: shares as ``98.3 %``, others with four digits."""
    if value is None:
        return NONE
    return f"{value * 100:.1f} %" if is_share(metric) else number(value, 4)


def score_interval(value: float | None, metric: str, samples: int | None) -> str:
    """A metric with its 95 % Wilson interval (JASA 22, 1927, p. 209) where the number of samples is known."""
    bounds = wilson(value, metric, samples)
    if bounds is None:
        return score(value, metric)
    return f"{score(value, metric)} [{bounds[0] * 100:.1f}, {bounds[1] * 100:.1f}]"


def wilson(value: float | None, metric: str, samples: int | None) -> tuple[float, float] | None:
    """95 % Wilson interval of a share of ``samples`` answers; None where the metric is no such share."""
    if value is None or not samples or not is_counted(metric) or not 0 <= value <= 1:
        return None
    shrink = 1 + _Z95**2 / samples
    centre = (value + _Z95**2 / (2 * samples)) / shrink
    half = _Z95 * math.sqrt(value * (1 - value) / samples + _Z95**2 / (4 * samples**2)) / shrink
    return max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value))


def points(new: float | None, old: float | None, metric: str) -> str:
    """The change of a metric: ``-0.3 points`` for shares."""
    if new is None or old is None:
        return NONE
    if is_share(metric):
        return f"{round((new - old) * 100, 1) + 0.0:+.1f} points"
    return f"{new - old:+.3g}"


def change(new: float | None, old: float | None) -> str:
    """``-63 %``."""
    return NONE if new is None or not old else f"{(new / old - 1) * 100:+.0f} %"


def _places(half_width: float, value: float) -> int:
    """Decimals (below 0: tens) such that the half-width shows one digit, or two when its first is a 1 or a 2."""
    if half_width <= 0:
        half_width = abs(value) * 1e-3 or 1.0
    exponent = math.floor(math.log10(half_width))
    leading = half_width / 10.0**exponent
    return min(9, -exponent + (1 if leading < 3 else 0))  # noqa: PLR2004 - a 1 or a 2


def _first_digit(value: float) -> int:
    """Decimals (below 0: tens) that show one digit of the value, however wide its interval is."""
    return 0 if value == 0 else min(9, -math.floor(math.log10(abs(value))))


def _clean(text: str, home: str) -> str:
    if len(home) > 1:
        text = re.sub(re.escape(home.rstrip("/")) + r"(?=/|\W|$)", "~", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
