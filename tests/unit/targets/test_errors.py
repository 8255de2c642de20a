"""Errors say what, why and how to fix it, keep their exit code, and cross a process border unchanged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import errors
from targets.errors import EdgepressError, Fault, error_from_json, faults_error, nearest

CODES = {
    "UsageError": 2, "InputError": 3, "RefusedError": 4, "EnvironmentFailure": 5, "DiskFailure": 5, "DeviceError": 6,
    "DeviceLost": 6, "BudgetError": 7, "Interrupted": 130,
}  # fmt: skip
FAULTS = st.lists(st.builds(Fault, where=st.text(), what=st.text(), fix=st.text()), max_size=3)


def _classes() -> set[str]:
    return {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, EdgepressError) and value is not EdgepressError
    }


def test_every_class_has_its_documented_exit_code() -> None:
    """The tree drawn in the docstring is the tree there is."""
    assert _classes() == set(CODES)
    assert {name: getattr(errors, name).exit_code for name in CODES} == CODES
    assert all(name in str(errors.__doc__) for name in CODES)


@given(name=st.sampled_from(sorted(CODES)), what=st.text(), why=st.text(), fix=st.text(), faults=FAULTS)
def test_json_round_trip(name: str, what: str, why: str, fix: str, faults: list[Fault]) -> None:
    """Through JSON text and back: same class, same lines, same faults."""
    error = getattr(errors, name)(what, why, fix, faults=faults)
    again = error_from_json(json.loads(json.dumps(error.to_json())))
    assert type(again) is type(error)
    assert again.to_json() == error.to_json()
    assert again.faults == tuple(faults)
    assert again.exit_code == CODES[name]


def test_unknown_class_is_our_own_bug() -> None:
    """A name from elsewhere becomes the root, which exits with 70."""
    assert error_from_json({"error": "SystemExit", "what": "a", "why": "b", "fix": "c"}).exit_code == 70


def test_message_is_three_lines() -> None:
    """What, why, fix: one line each."""
    assert str(errors.InputError("a", "b", "c")) == "a\nb\nc"


def test_one_fault_reads_like_an_error_and_several_are_counted() -> None:
    """All faults come at once, each with its place; the same remedy is told once."""
    faults = [Fault(where=f"a.{i}", what=f"what{i}", fix="same") for i in range(3)]
    assert str(faults_error("recipe r", faults[:1])) == "recipe r is not valid\na.0: what0\nsame"
    error = faults_error("recipe r", faults)
    assert str(error).splitlines() == [
        "recipe r is not valid: 3 faults", "a.0: what0; a.1: what1; a.2: what2", "same",
    ]  # fmt: skip
    assert error.faults == tuple(faults)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prunne", "did you mean 'prune'?"),
        ("zzzz", "known: distill, prune, train"),
        ("destil", "did you mean 'distill'?"),
    ],
)
def test_nearest_names(name: str, hint: str) -> None:
    """A near name is suggested; where none is near, all are listed."""
    assert nearest(name, ["train", "prune", "distill"]) == hint


@given(name=st.text(max_size=8), choices=st.sets(st.text(min_size=1, max_size=8), max_size=5))
def test_nearest_only_names_what_exists(name: str, choices: set[str]) -> None:
    """Every suggestion is one of the choices."""
    hint = nearest(name, choices)
    assert hint == f"known: {', '.join(sorted(choices))}" or any(repr(choice) in hint for choice in choices)


def test_fault_without_a_place_reads_well() -> None:
    """The place is left out, not shown as an empty name."""
    assert str(Fault(where="", what="a", fix="b")) == "a (b)"
    assert str(Fault(where="x.y", what="a", fix="b")) == "x.y: a (b)"
