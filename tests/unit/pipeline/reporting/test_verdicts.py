"""What a campaign allows to say, in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.reporting.verdicts import device_text, noise_text, verdict_sentence, void_reason


def _say(campaign: dict[str, Any], **changes: object) -> str:
    campaign["comparison"][0].update(changes)
    return verdict_sentence(campaign, "int8", "fp32")


def test_a_winner_is_told_with_interval_blocks_noise_and_conditions(campaign: dict[str, Any]) -> None:
    """One sentence holds all that a reader needs to judge it, in the digits that the interval supports."""
    assert _say(campaign) == (
        "int8 is 2.2\u00d7 faster than fp32 (95 % CI 1.9\u20132.6, 7 blocks, A/A noise \u00b10.8 %) "
        "on pi4 (Cortex-A72), 1 thread."
    )


def test_the_same_comparison_the_other_way_round(campaign: dict[str, Any]) -> None:
    """The slower one is told as slower, with a factor above 1."""
    assert verdict_sentence(campaign, "fp32", "int8").startswith("fp32 is 2.2\u00d7 slower than int8 (95 % CI 1.9")


def test_throughput_is_judged_by_throughput(campaign: dict[str, Any]) -> None:
    """Where throughput was measured, the latency of single calls decides nothing."""
    campaign["scenario"] = {**campaign["scenario"], "kind": "throughput"}
    by_wall = {**campaign["comparison"][0], "metric": "ms_per_inference", "verdict": "slower", "ratio": 1.5}
    campaign["comparison"].append({**by_wall, "ci95": [1.4, 1.6]})
    assert _say(campaign).startswith("int8 is 1.50\u00d7 slower than fp32 (by throughput, 95 % CI 1.40")


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"verdict": "faster by little"}, "int8 is faster than fp32 by little, 2.2"),
        ({"verdict": "slower by little"}, "int8 is slower than fp32 by little, 0.45"),
        ({"verdict": "same"}, "int8 is as fast as fp32 within \u00b11.0 %"),
        ({"verdict": "not shown"}, "int8 was not shown to be faster or slower than fp32: 2.2"),
    ],
)
def test_every_verdict_has_its_words(changes: dict[str, Any], start: str, campaign: dict[str, Any]) -> None:
    """Nothing but a clear verdict is called faster."""
    assert _say(campaign, **changes).startswith(start)


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"blocks_needed": 23}, "; about 23 blocks would show it."),
        ({"blocks_needed": 9_000}, "; no campaign of a sensible length would show it."),
        ({"blocks_needed": 5}, "1 thread."),
        ({"reason": "below 3 blocks"}, "; no verdict: below 3 blocks."),
    ],
)
def test_what_was_not_shown_says_what_is_missing(changes: dict[str, Any], end: str, campaign: dict[str, Any]) -> None:
    """Blocks needed, or why there is no verdict; nothing absurd."""
    assert _say(campaign, verdict="not shown", **changes).endswith(end)


def test_no_interval_claims_none(campaign: dict[str, Any]) -> None:
    """A single block has a ratio and no interval."""
    said = _say(campaign, verdict="not shown", ci95=None, blocks=1)
    assert "95 % CI" not in said
    assert "1 block," in said


def test_screening_gives_no_verdict(campaign: dict[str, Any]) -> None:
    """Mode quick shows the ratio and calls nobody faster."""
    campaign["campaign"]["mode"] = "quick"
    said = _say(campaign, verdict="not shown", reason="screening only")
    assert said.startswith("Screening only, no verdict: int8 has 2.2")
    assert "faster" not in said


def test_a_void_measurement_gives_no_verdict(campaign: dict[str, Any]) -> None:
    """The sentence names which one is void, and why: the void warning, not every small one."""
    campaign["quality"]["engines"]["fp32"] = {"grade": "F", "reasons": ["W-Y: y", "W-THROTTLE: it was throttled"]}
    campaign["warnings"].append(
        {"code": "W-THROTTLE", "severity": "void", "engine": "fp32", "text": "it was throttled"}
    )
    assert "the measurement of fp32 is void (W-THROTTLE: it was throttled)" in _say(campaign)
    assert void_reason(campaign, "int8") == ""


def test_what_was_not_compared_is_not_judged(campaign: dict[str, Any]) -> None:
    """Metrics other than latency are no verdict on speed."""
    del campaign["comparison"][0]
    assert _say(campaign).startswith("No verdict on int8 against fp32")


def test_unknown_noise_and_emulation_are_said(campaign: dict[str, Any]) -> None:
    """Never silently zero, never silently a real CPU."""
    campaign["noise"]["floor_pct"] = None
    campaign["device"]["emulated"] = True
    assert noise_text(campaign) == "A/A noise not known"
    assert device_text(campaign) == "pi4 (Cortex-A72, emulated)"
