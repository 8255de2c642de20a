"""A stage's configuration as part of its key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.recipe import PruneSection
from pipeline.stages.base import configuration


@dataclass(frozen=True, kw_only=True)
class Sample:
    text: str
    numbers: tuple[int, ...] = (1, 2)
    path: Path = field(default=Path("/tmp/x"), metadata={"key": False})
    section: PruneSection = field(default_factory=lambda: PruneSection(ratio=0.5))


def test_places_are_left_out() -> None:
    """Two folders, one key; all other fields count, nested ones too."""
    assert configuration(Sample(text="a", path=Path("/one"))) == configuration(Sample(text="a", path=Path("/two")))
    assert configuration(Sample(text="a")) != configuration(Sample(text="b"))
    assert configuration(Sample(text="a"))["section"]["ratio"] == 0.5


def test_equal_fields_of_another_kind_differ() -> None:
    """The type's name is part of it."""

    @dataclass(frozen=True, kw_only=True)
    class Other:
        text: str

    @dataclass(frozen=True, kw_only=True)
    class Another:
        text: str

    assert configuration(Other(text="a")) != configuration(Another(text="a"))


@pytest.mark.parametrize("value", [{1, 2}, Path("/x"), b"bytes", object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    """Rather than a key that changes from run to run."""
    with pytest.raises(TypeError, match="cannot be part of a key"):
        configuration({"x": value})
