"""What is wrong with a TOML file becomes faults that a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from targets.errors import Fault, InputError
from targets.faults import faults_of, read_toml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    kind: Literal["a", "b"] = "a"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def _faults(data: dict[str, object]) -> list[Fault]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return faults_of(caught.value, Outer)


@pytest.mark.parametrize(
    ("data", "where", "what", "fix"),
    [
        ({"name": "n", "iner": {}}, "iner", "no such key", "'inner'"),
        ({"name": "n", "inner": {"ratoi": 1}}, "inner.ratoi", "no such key", "'ratio'"),
        ({"name": "n", "maybe": {"knid": 1}}, "maybe.knid", "no such key", "'kind'"),
        ({}, "name", "is missing", "`name = ...`"),
        ({"name": "n", "inner": {"kind": "c"}}, "inner.kind", "'c' is not allowed", "'a' or 'b'"),
        ({"name": "n", "inner": {"ratio": 2}}, "inner.ratio", "2 is not valid", "less than 1"),
        ({"name": ["x" * 500]}, "name", "... is not valid", "valid string"),
    ],
)
def test_each_fault_names_place_value_and_remedy(data: dict[str, object], where: str, what: str, fix: str) -> None:
    """Dotted path, the offending value (cut when long), what is allowed or the nearest name."""
    (fault,) = _faults(data)
    assert fault.where == where
    assert what in fault.what
    assert fix in fault.fix
    assert len(fault.what) < 120


def test_all_faults_are_found_at_once() -> None:
    """One pass tells everything."""
    found = _faults({"inner": {"ratio": 2, "x": 1}, "y": 1})
    assert {fault.where for fault in found} == {"name", "inner.ratio", "inner.x", "y"}


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"a = = 1", "line 1"), (b"x = 1\ny = ?", "line 2"), (b"a = '\xff'", "decode"), (b"a = 1\na = 2", "overwrite")],
)
def test_text_that_is_not_toml_names_the_line(content: bytes, why: str, tmp_path: Path) -> None:
    """Syntax errors and wrong encodings are input errors with subject and path."""
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_toml(path, "the recipe")
    assert f"the recipe {path} is not TOML" in caught.value.what
    assert why in caught.value.why


def test_unreadable_and_huge_files_are_input_errors(tmp_path: Path) -> None:
    """An absent file, a folder, and a file that is no recipe by its size are told, not loaded."""
    with pytest.raises(InputError, match="cannot read"):
        read_toml(tmp_path / "gone.toml", "the recipe")
    with pytest.raises(InputError, match="cannot read"):
        read_toml(tmp_path, "the recipe")
    (tmp_path / "big.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="too large"):
        read_toml(tmp_path / "big.toml", "the recipe")


def test_good_file_is_read(tmp_path: Path) -> None:
    """Tables come as dicts."""
    (tmp_path / "r.toml").write_text("a = 1\n[b]\nc = 'é'\n", encoding="utf-8")
    assert read_toml(tmp_path / "r.toml", "the recipe") == {"a": 1, "b": {"c": "é"}}


class Alpha(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["alpha"]
    size: int = 1


class Beta(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["beta", "beta-two"]
    pair: tuple[int, int] = (1, 2)


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid")
    engine: Annotated[Alpha | Beta, Field(discriminator="name")]


class Rows(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: tuple[Row, ...]


@pytest.mark.parametrize(
    ("engine", "where", "what", "fix"),
    [
        ({"name": "alpha", "size": "x"}, "rows.0.engine.size", "'x' is not valid", "integer"),
        ({"name": "alpha", "sise": 1}, "rows.0.engine.sise", "no such key", "'size'"),
        ({"name": "beta-two", "pear": 1}, "rows.0.engine.pear", "no such key", "'pair'"),
        ({"name": "beta", "pair": [1]}, "rows.0.engine.pair.1", "is missing", "one more value"),
        ({"name": "alfa"}, "rows.0.engine.name", "'alfa' is not allowed", "'alpha'"),
        ({"size": 1}, "rows.0.engine.name", "is missing", 'name = "alpha"'),
        (3, "rows.0.engine", "3 is no table", "[rows.0.engine]"),
    ],
)
def test_a_table_of_several_kinds_is_named_as_in_the_file(engine: object, where: str, what: str, fix: str) -> None:
    """Promise: the place is the key path of the file; which kind of table it is stands in no path."""
    with pytest.raises(ValidationError) as caught:
        Rows.model_validate({"rows": [{"engine": engine}]})
    (fault,) = faults_of(caught.value, Rows)
    assert (fault.where, what in fault.what, fix in fault.fix) == (where, True, True), fault


def test_a_text_or_a_list_is_named_as_in_the_file() -> None:
    """Promise: what tells the forms of a value apart inside is no part of the path that the user is shown."""

    class Choice(BaseModel):
        steps: Annotated[
            Annotated[Literal["auto"], Tag("text")] | Annotated[list[Literal["bias", "spare"]], Tag("list")],
            Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
        ] = "auto"

    with pytest.raises(ValidationError) as caught:
        Choice.model_validate({"steps": ["bias", "spar"]})
    (fault,) = faults_of(caught.value, Choice)
    assert fault.where == "steps.1"
    assert "'spare'" in fault.fix
