"""The device may cool down between blocks, but never for longer than the quiet gate may wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.benchmarking import cooling
from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign

if TYPE_CHECKING:
    from collections.abc import Callable

Make = Any  # the fixture that makes a synthetic device
Clock = Any  # its time
Run = Any  # runs a campaign at a temperature
HOT = {"temp_c": {"start": 50.0, "end": 62.0, "max": 63.0}, "freq_khz": None, "throttle": None}
OPTIONS = CampaignOptions(budget_s=1000, seed=1)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, synthetic: Make, entrants: list[Entrant]
) -> Callable[[Callable[[int], float]], dict[str, Any]]:
    """Runs a campaign on a device whose temperature, at idle, is a function of how often it was asked."""
    monkeypatch.setattr(cooling, "time", clock)

    def campaign(temperature: Callable[[int], float]) -> dict[str, Any]:
        device, asked = synthetic(telemetry=HOT), [0]

        def tell(command: list[str]) -> None:
            if command[0] == "facts":
                device.facts_raw["temp_c"] = temperature(asked[0])
                asked[0] += 1

        device.before = tell
        return run_campaign(entrants, device, OPTIONS)

    return campaign


def test_a_block_waits_until_the_device_is_cool(run: Run, clock: Clock) -> None:
    """Two polls too warm, then within 3 degrees of the start: the block begins, and nothing is to be warned of."""
    found = run(lambda asked: {1: 58.0, 2: 54.0}.get(asked, 50.0 if asked == 0 else 53.0))
    assert clock.slept_s == [0.5, 0.5]
    assert found["campaign"]["waited_s"] == pytest.approx(1.0 + 2 * 0.3 + 6 * 0.3, abs=0.31)
    assert "W-WARM" not in {item["code"] for item in found["warnings"]}


def test_all_waiting_takes_five_seconds_at_most(run: Run, clock: Clock) -> None:
    """A device that stays warm is measured all the same, marked, and not waited for again and again."""
    found = run(lambda asked: 50.0 if asked == 0 else 56.5)
    assert sum(clock.slept_s) < 5
    (warning,) = (item for item in found["warnings"] if item["code"] == "W-WARM")
    assert "6 of 7 blocks" in warning["evidence"]
    assert "6.5 degrees" in warning["evidence"]
    assert found["quality"]["grade"] == "B"


def test_a_cool_device_is_asked_nothing(clock: Clock, synthetic: Make, entrants: list[Entrant]) -> None:
    """Where the samplers saw no heat, facts are read at the start and the end only."""
    device = synthetic(telemetry={**HOT, "temp_c": {"start": 50.0, "end": 52.0, "max": 52.0}})
    device.facts_raw["temp_c"] = 50.0
    asked: list[str] = []
    device.before = lambda command: asked.append(command[0])
    run_campaign(entrants, device, OPTIONS)
    assert asked.count("facts") == 2
