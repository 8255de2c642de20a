"""The rule that decides what ships, on made-up candidates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gate import MIB, Candidate, Comparer, decide
from pipeline.recipe import BudgetSection


def candidate(name: str, **changes: object) -> Candidate:
    plain: dict[str, Any] = {
        "name": name, "precision": "int8" if name == "int8" else "fp32", "accuracy": 0.95,
        "size_bytes": {"dense-fp32": 400, "fp32": 200}.get(name, 60),
        "latency_ms": 1.0, "memory_bytes": 50 * MIB, "outputs_ok": True,
    }  # fmt: skip
    return Candidate(**{**plain, **changes})


def comparer(**verdicts: str) -> Comparer:
    """Says a fixed verdict of each challenger."""
    return lambda challenger, _: {"verdict": verdicts[challenger], "ratio": 0.5, "ci95": [0.45, 0.55]}


THREE = [candidate("dense-fp32"), candidate("fp32"), candidate("int8")]


@pytest.mark.parametrize(
    ("verdict", "winner"),
    [("faster", "int8"), ("faster, by little", "int8"), ("same", "int8"), ("not shown", "fp32"), ("slower", "fp32")],
)
def test_int8_ships_only_when_shown_to_win(verdict: str, winner: str) -> None:
    """Faster wins, the same speed lets the smaller file win, anything else ships float."""
    found = decide([candidate("fp32"), candidate("int8")], BudgetSection(), comparer(int8=verdict))
    assert (found.chosen, found.met_budget) == (winner, True)
    assert found.of_each["int8"], "the report must be able to say why"


def test_the_same_speed_keeps_the_smaller_incumbent() -> None:
    """A challenger that is as fast but not smaller does not ship."""
    found = decide([candidate("fp32"), candidate("int8", size_bytes=300)], BudgetSection(), comparer(int8="same"))
    assert found.chosen == "fp32"


def test_a_fast_candidate_below_the_floor_never_ships() -> None:
    """Accuracy is judged against the first, uncompressed candidate."""
    candidates = [candidate("dense-fp32"), candidate("fp32"), candidate("int8", accuracy=0.9399)]
    found = decide(candidates, BudgetSection(accuracy_drop=0.01), comparer(fp32="faster", int8="faster"))
    assert found.chosen == "fp32"
    assert "below the floor 0.9400" in found.of_each["int8"][0]


def test_exactly_at_the_floor_is_met() -> None:
    """Rounding of binary fractions decides nothing."""
    candidates = [candidate("fp32", accuracy=0.95), candidate("int8", accuracy=0.94)]
    assert decide(candidates, BudgetSection(accuracy_drop=0.01), comparer(int8="faster")).chosen == "int8"


@pytest.mark.parametrize(
    ("budget", "value"),
    [
        pytest.param({"latency_ms": 0.5}, {"latency_ms": 0.6}, id="latency"),
        pytest.param({"memory_mb": 40}, {"memory_bytes": 41 * MIB}, id="memory"),
        pytest.param({"size_mb": 1}, {"size_bytes": MIB + 1}, id="size"),
    ],
)
def test_every_ceiling_holds(budget: dict[str, float], value: dict[str, float]) -> None:
    """What is over a ceiling does not ship, and the reason names the recipe's key."""
    fitting = candidate("fp32", latency_ms=0.4, memory_bytes=30 * MIB)
    found = decide([fitting, candidate("int8", **value)], BudgetSection(**budget), comparer(int8="faster"))
    assert found.chosen == "fp32"
    assert next(iter(budget)) in found.of_each["int8"][0]


def test_wrong_outputs_are_void() -> None:
    """A candidate whose outputs changed while it was timed never ships."""
    found = decide([candidate("fp32"), candidate("int8", outputs_ok=False)], BudgetSection(), comparer(int8="faster"))
    assert found.chosen == "fp32"


def test_when_nothing_fits_the_closest_is_named() -> None:
    """The budget is reported as missed, with the least violating candidate and its reasons."""
    candidates = [candidate("fp32", latency_ms=4.0), candidate("int8", latency_ms=2.0)]
    found = decide(candidates, BudgetSection(latency_ms=1.0), comparer(int8="faster"))
    assert (found.chosen, found.met_budget) == ("int8", False)
    assert "over the ceiling" in found.reasons[0]


def test_without_a_measurement_the_smaller_wins_and_it_is_said() -> None:
    """Every reason says that latency was not measured."""
    found = decide([candidate(c.name, latency_ms=None, memory_bytes=None) for c in THREE], BudgetSection(), None)
    assert found.chosen == "int8"
    assert all("latency was not measured" in reason for reason in found.reasons)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.floats(0, 1),
    st.lists(st.sampled_from(["faster", "same", "slower", "not shown"]), min_size=2, max_size=2),
)
def test_what_ships_meets_the_floor(accuracies: list[float], drop: float, verdicts: list[str]) -> None:
    """Whatever the measurement says, a shipped candidate is above the floor, and one that is there always exists."""
    names = ("dense-fp32", "fp32", "int8")
    candidates = [candidate(name, accuracy=accuracy) for name, accuracy in zip(names, accuracies, strict=True)]
    found = decide(candidates, BudgetSection(accuracy_drop=drop), comparer(fp32=verdicts[0], int8=verdicts[1]))
    chosen = next(item for item in candidates if item.name == found.chosen)
    assert found.met_budget
    assert chosen.accuracy >= accuracies[0] - drop - 1e-6


def test_a_void_measurement_shows_nothing() -> None:
    """Grade F of either one keeps the one before, whatever the ratio is, and the reason says which and why."""
    void = candidate("int8", void="W-THROTTLE: it was throttled")
    found = decide([candidate("fp32"), void], BudgetSection(), comparer(int8="faster"))
    assert found.chosen == "fp32"
    assert "the measurement of int8 is void (W-THROTTLE: it was throttled)" in found.of_each["int8"][0]
    noisy = candidate("fp32", void="W-UNSTEADY: no steady state")
    assert decide([noisy, candidate("int8")], BudgetSection(), comparer(int8="faster")).chosen == "fp32"


def test_a_void_latency_is_held_to_its_ceiling() -> None:
    """Throttling makes slower, never faster: what is below the ceiling all the same meets it."""
    void = candidate("fp32", latency_ms=2.0, void="W-UNSTEADY: no steady state")
    assert decide([void], BudgetSection(latency_ms=3.0), comparer()).met_budget
    assert not decide([void], BudgetSection(latency_ms=1.0), comparer()).met_budget


def test_accuracy_on_the_device_is_said() -> None:
    """A loss that only the device shows names the device."""
    candidates = [candidate("fp32", scored_on="pi4"), candidate("int8", accuracy=0.5, scored_on="pi4")]
    found = decide(candidates, BudgetSection(), comparer(int8="faster"))
    assert "accuracy 0.5000 on device pi4 is below the floor" in found.of_each["int8"][0]


@pytest.mark.parametrize(
    ("known", "end"),
    [
        ({"verdict": "not shown", "blocks": 7, "blocks_needed": 12}, "; about 12 blocks would show it"),
        ({"verdict": "not shown", "blocks": 7, "blocks_needed": 12, "reason": "screening only"}, "; screening only"),
        ({"verdict": "faster", "noise_percent": 0.8}, "(95 % interval 1.82 to 2.22, A/A noise \u00b10.8 %)"),
        ({"verdict": "same", "delta": 0.01}, "as fast as fp32 within \u00b11.0 %, smaller: 60 against 200 bytes"),
    ],
)
def test_reasons_carry_the_evidence(known: dict[str, Any], end: str) -> None:
    """Noise floor, smallest difference that counts, and what a verdict would have needed."""
    found = decide(
        [candidate("fp32"), candidate("int8")],
        BudgetSection(),
        lambda _a, _b: {"ratio": 0.5, "ci95": [0.45, 0.55], **known},
    )
    assert found.of_each["int8"][0].endswith(end)


def test_what_is_not_measured_never_beats_what_is() -> None:
    """In either order, whatever their sizes; and nobody is asked to compare them."""

    def never(_a: str, _b: str) -> dict[str, Any]:
        raise AssertionError

    lost = {"latency_ms": None, "memory_bytes": None, "unmeasured": "no GPU here"}
    found = decide([candidate("fp32"), candidate("int8", **lost)], BudgetSection(), never)
    assert found.chosen == "fp32"
    assert "it is not measured (no GPU here)" in found.of_each["int8"][0]
    found = decide([candidate("fp32", size_bytes=1, **lost), candidate("int8")], BudgetSection(), never)
    assert found.chosen == "int8"
    assert "measured, which fp32 is not" in found.reasons[0]


def test_what_is_not_measured_meets_no_ceiling() -> None:
    """Nobody knows its latency: where one is asked for, it is the last to ship."""
    lost = candidate("int8", latency_ms=None, memory_bytes=None, unmeasured="no GPU here")
    found = decide([candidate("fp32", latency_ms=9.0), lost], BudgetSection(latency_ms=1.0), comparer())
    assert (found.chosen, found.met_budget) == ("fp32", False)
    assert "nobody knows whether it meets latency_ms" in found.of_each["int8"][0]


def test_when_none_is_measured_it_is_as_without_measurement() -> None:
    """The smaller one wins, and it is said."""
    lost = {"latency_ms": None, "memory_bytes": None, "unmeasured": "no GPU here"}
    both = [candidate("fp32", **lost), candidate("int8", **lost)]
    found = decide(both, BudgetSection(latency_ms=1.0), comparer())
    assert (found.chosen, found.met_budget) == ("int8", True)
    assert "latency was not measured" in found.reasons[0]


def test_two_that_are_not_measured_beside_one_that_is() -> None:
    """Among those the smaller one leads, until a measured one comes."""
    lost = {"latency_ms": None, "memory_bytes": None, "unmeasured": "no GPU here"}
    three = [candidate("dense-fp32", **lost), candidate("fp32", **lost), candidate("int8")]
    assert decide(three, BudgetSection(), comparer()).chosen == "int8"
    low = [candidate("dense-fp32", **lost), candidate("fp32", **lost), candidate("int8", accuracy=0.1)]
    assert decide(low, BudgetSection(), comparer()).chosen == "fp32"


def test_without_a_measurement_another_engine_wins_nothing_by_its_size() -> None:
    """Files of two engines do not compare: the engine of first choice stays, int8 of its own may still replace it."""
    plan = candidate("fp32", runs_by="tensorrt-rtx gpu")
    other = candidate("other-fp16", size_bytes=1, runs_by="onnxruntime CUDAExecutionProvider")
    own = candidate("int8", runs_by="tensorrt-rtx gpu")
    found = decide([plan, other, own], BudgetSection(), None)
    assert found.chosen == "int8"
    assert "the target prefers the engine of fp32" in found.of_each["other-fp16"][-1]
    assert decide([plan, other], BudgetSection(), None).chosen == "other-fp16"  # all that was asked for beside it
