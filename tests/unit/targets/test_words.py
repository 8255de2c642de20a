"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from targets.words import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries"), (1200, "1,200 entries")]
)
def test_one_is_not_several(count: int, text: str) -> None:
    """Promise: only one is singular."""
    assert counted(count, "entry", "entries") == text
    assert counted(count, "block") == text.replace("entry", "block").replace("entries", "blocks")
