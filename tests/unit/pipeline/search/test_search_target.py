"""Options of the target's engines vary beside the engine as it is."""

from __future__ import annotations

import pytest

from pipeline.search.target import profile_at
from targets.errors import EdgepressError
from targets.profile import load_profile


def test_other_threads_compete_with_the_engine_as_it_is() -> None:
    """Promise: the reference keeps its options, so ratios compare; every engine that has the option gets it."""
    plain = load_profile("x86-64-avx2")
    found = profile_at(plain, {"target.engine.threads": 2, "prune.ratio": 0.5})
    assert found.engine == plain.engine
    assert {label: one.engine.threads for label, one in found.choices().items()} == {
        "": 1, "tuned": 2, "tuned-openvino": 2,
    }  # fmt: skip
    assert list(profile_at(plain, {"target.engine.allow_spinning": False}).choices()) == ["", "tuned"]


def test_what_changes_nothing_leaves_the_target_alone() -> None:
    """Promise: a point with the target's own options is the target, so the store has all of it."""
    plain = load_profile("x86-64-avx2")
    assert profile_at(plain, {"prune.ratio": 0.5}) is plain
    assert profile_at(plain, {"target.engine.threads": plain.engine.threads}) == plain


@pytest.mark.parametrize("point", [{"target.engine.treads": 2}, {"target.engine.threads": 0}, {"target.name": "x"}])
def test_options_that_are_none_are_refused(point: dict[str, object]) -> None:
    """Promise: a wrong option or value is named before anything runs."""
    with pytest.raises(EdgepressError):
        profile_at(load_profile("x86-64-avx2"), point)
