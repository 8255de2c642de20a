"""Numbers show the digits that are known; text shows nothing that is private or that a terminal would obey."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting import text
from pipeline.reporting.schema_measured import Comparison, Interval


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (7.6134, 7.41, 7.82, "7.61 ms [7.41, 7.82]"),  # half-width 0.205: two digits, its first is a 2
        (0.2134, 0.2077, 0.2188, "0.213 ms [0.208, 0.219]"),  # half-width 0.0056: one digit
        (123.456, 118.0, 129.0, "123 ms [118, 129]"),
        (1234.5, 1100.0, 1400.0, "1230 ms [1100, 1400]"),
        (0.5, 0.5, 0.5, "0.5000 ms [0.5000, 0.5000]"),
        (2.1, 1e-7, 5e7, "2 ms [wider than 10\N{MULTIPLICATION SIGN} each way]"),
    ],
)
def test_only_the_digits_the_interval_supports(value: float, low: float, high: float, shown: str) -> None:
    """The half-width of the interval decides the number of decimals."""
    assert text.interval(Interval(value=value, ci95=(low, high)), "ms") == shown


@settings(max_examples=200, deadline=None)
@given(value=st.floats(1e-4, 1e5), relative=st.floats(1e-3, 0.5))
def test_rounding_is_far_below_the_uncertainty(value: float, relative: float) -> None:
    """What is shown differs from what was measured by less than a fifth of the half-width, and has no idle decimals."""
    half = value * relative
    shown = text.interval(Interval(value=value, ci95=(value - half, value + half)), "ms").split()[0]
    assert abs(float(shown) - value) <= 0.2 * half + 1e-9
    decimals = len(shown.partition(".")[2])
    assert decimals == 0 or 10.0**-decimals > half / 31


def test_values_without_interval_and_missing_values() -> None:
    """Without an interval three digits are shown; what is unknown is a dash, never a zero."""
    assert text.interval(Interval(value=0.21345), "ms") == "0.213 ms"
    assert {f(None) for f in (text.number, text.count, text.size, text.milliseconds)} == {text.NONE}
    assert text.interval(None, "ms") == text.speedup(None) == text.score(None, "accuracy") == text.NONE
    assert text.points(None, 0.5, "accuracy") == text.change(None, 1.0) == text.NONE
    assert text.speedup(Comparison(ratio=2.897, ci95=(2.81, 2.98))) == "2.90\N{MULTIPLICATION SIGN} [2.81, 2.98]"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.size(999), "999 B"), (text.size(0), "0 B"), (text.size(149_000), "149 kB"),
        (text.size(1_090_000), "1.09 MB"),
        (text.size(5_000_000_000), "5.00 GB"), (text.count(272_474), "272 k"), (text.count(41_100_000), "41.1 M"),
        (text.seconds(0.031), "0.03 s"), (text.seconds(41.23), "41.2 s"), (text.seconds(200), "3 min 20 s"),
        (text.seconds(119.99), "120.0 s"), (text.seconds(179.7), "3 min 0 s"),
        (text.score(0.98333, "accuracy"), "98.3 %"), (text.score(0.52347, "rmse"), "0.5235"),
        (text.points(0.98, 0.983, "accuracy"), "-0.3 points"), (text.points(0.98, 0.98004, "top1"), "+0.0 points"),
        (text.points(1.5, 1.25, "rmse"), "+0.25"), (text.change(149, 1090), "-86 %"), (text.number(0), "0"),
        (text.number(-0.04567), "-0.0457"), (text.number(1234567.0), "1234567"),
    ],
)  # fmt: skip
def test_units_and_signs(shown: str, expected: str) -> None:
    """Sizes, counts, times, scores and changes read as people write them."""
    assert shown == expected


@settings(max_examples=100, deadline=None)
@given(samples=st.integers(1, 10_000), data=st.data())
def test_wilson_is_the_root_of_the_score_test(samples: int, data: st.DataObject) -> None:
    """Both bounds solve |p - p0| = z sqrt(p0 (1 - p0) / n), the definition of the interval."""
    value = data.draw(st.integers(0, samples)) / samples
    bounds = text.wilson(value, "accuracy", samples)
    assert bounds is not None
    assert 0 <= bounds[0] <= value <= bounds[1]
    for bound in bounds:
        if 1e-9 < bound < 1 - 1e-9:
            assert abs(value - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / samples), abs=1e-7)


def test_no_interval_where_there_is_none() -> None:
    """A metric that is not a share of right answers, or an unknown number of samples, gets no interval."""
    assert text.wilson(0.9, "rmse", 100) is None
    assert text.wilson(0.9, "accuracy", None) is None
    assert text.score_interval(0.9, "miou", 100) == "90.0 %"


def test_private_text_is_hidden_and_controls_are_spelled_out() -> None:
    """Home becomes ~, credentials become stars, escape sequences become visible text; at every depth, in keys too."""
    shown = text.presentable(
        {
            "a": ["/home/ann/net.py", "/home/anna/x", "see /home/ann"],
            "/home/ann/k": {"t": "API_KEY=abc123 token: xyz", "u": "https://u:pw@host/x", "h": "hf_abcdefghijkl"},
            "c": "a\x1b]0;owned\x07b\u202ec\nd",
            "n": (1, 2.5, None, True),
        },
        home="/home/ann",
    )
    assert shown["a"] == ["~/net.py", "/home/anna/x", "see ~"]
    assert shown["~/k"] == {"t": "API_KEY=*** token: ***", "u": "https://***@host/x", "h": "***"}
    assert shown["c"] == "a\\x1b]0;owned\\x07b\\u202ec\nd"
    assert shown["n"] == [1, 2.5, None, True]
    assert text.presentable("/etc/x", home="/") == "/etc/x"


@pytest.mark.parametrize(
    ("shown", "tied"),
    [
        ("13 % of its size", "13\N{NO-BREAK SPACE}% of its size"),
        ("0.21 ms, 5 blocks", "0.21\N{NO-BREAK SPACE}ms, 5\N{NO-BREAK SPACE}blocks"),
        ("95 % CI [0.1, 0.2]", "95\N{NO-BREAK SPACE}% CI [0.1,\N{NO-BREAK SPACE}0.2]"),
        ("[n = 3957, at most 4.28 milliseconds]", "[n = 3957, at most 4.28 milliseconds]"),
        ("2 seconds", "2 seconds"),
    ],
)
def test_no_line_breaks_between_a_number_and_its_unit(shown: str, tied: str) -> None:
    """Promise: what belongs together stays on a line; what is long may still be broken."""
    assert text.tied(shown) == tied
