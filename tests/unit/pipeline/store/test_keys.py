"""pipeline.store.keys: one text for one value."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import canonical_json, make_key

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def _shuffled(value: object, rng: random.Random) -> object:
    if isinstance(value, dict):
        items = [(key, _shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    return [_shuffled(item, rng) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=60)
@given(value=_JSON, seed=st.integers())
def test_text_does_not_depend_on_order(value: object, seed: int) -> None:
    """The order of a dict does not matter, and the text reads back as the value, types included."""
    text = canonical_json(value)
    assert text == canonical_json(_shuffled(value, random.Random(seed)))
    assert repr(_shuffled(json.loads(text), random.Random(0))) == repr(
        _shuffled(json.loads(json.dumps(value, sort_keys=True)), random.Random(0))
    )
    assert text.isascii()


@settings(deadline=None, max_examples=60)
@given(first=_JSON, second=_JSON)
def test_keys_differ_as_texts_do(first: object, second: object) -> None:
    """Two payloads have the same key exactly when they have the same text."""
    same = canonical_json(first) == canonical_json(second)
    assert (make_key({"v": first}) == make_key({"v": second})) == same


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_refused_with_its_place(bad: float) -> None:
    """A NaN or an infinity has no key, and the message says where it stands."""
    with pytest.raises(ValueError, match=r"value\.prune\[1\] is"):
        canonical_json({"prune": [1.0, bad]})


@pytest.mark.parametrize("bad", [{1: "a"}, {True: "a"}, b"bytes", {1, 2}, object(), 1j])
def test_what_json_has_no_word_for_is_refused(bad: object) -> None:
    """Keys that are no strings, bytes, sets and objects are refused, not converted."""
    with pytest.raises(TypeError, match=r"value\.payload\.x"):
        make_key({"x": bad})


def test_number_types_are_told_apart() -> None:
    """1, 1.0 and True give different keys; a tuple is a list."""
    assert len({make_key({"x": x}) for x in (1, 1.0, True, "1", None)}) == 5
    assert make_key({"x": (1, 2)}) == make_key({"x": [1, 2]})


def test_key_is_stable() -> None:
    """A key is the same on every machine and for ever, until the schema version changes."""
    assert (
        make_key({"stage": "export", "ratio": 0.1})
        == "56b82aaeff39e34ea33bb1b2b7f68dd2b03304e4d42508f38122b2f9e40b1107"
    )
