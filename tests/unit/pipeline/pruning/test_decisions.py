"""Decisions survive JSON and refuse what is not theirs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pruning import Decisions, Kept
from targets.errors import InputError

KEPT = st.sets(st.integers(0, 20), min_size=1).map(lambda s: Kept(size=21, kept=tuple(sorted(s))))
DECISIONS = st.dictionaries(st.text(min_size=1), st.dictionaries(st.integers(0, 4), KEPT, min_size=1)).map(
    lambda p: Decisions(parameters=p)
)


@given(decisions=DECISIONS)
def test_json_round_trip(decisions: Decisions) -> None:
    """Through JSON text and back, nothing changes."""
    assert Decisions.from_json(json.loads(json.dumps(decisions.to_json()))) == decisions


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"parameters": []}, {"parameters": {"w": 3}},
        {"parameters": {"w": {"x": {"size": 2, "kept": [0]}}}},
        *({"parameters": {"w": {"0": kept}}} for kept in (
            None, {"size": 2}, {"size": "2", "kept": [0]}, {"size": 2, "kept": []}, {"size": 2, "kept": [1, 0]},
            {"size": 2, "kept": [0, 0]}, {"size": 2, "kept": [2]}, {"size": 2, "kept": [-1]},
            {"size": 2, "kept": [True]},
        )),
    ],
)  # fmt: skip
def test_malformed_is_refused(data: object) -> None:
    """Anything but ascending indices below their size is an input error."""
    with pytest.raises(InputError, match="cannot be read"):
        Decisions.from_json(data)
