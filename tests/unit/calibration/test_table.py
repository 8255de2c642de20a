"""Promises of the calibration table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from calibration.table import CalibrationTable
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def table() -> CalibrationTable:
    return CalibrationTable(
        tensors={"b": {"minmax": (-1.5, 2.0), "mse": (-1.0, 1.1)}, "a": {"minmax": (0.0, 0.1), "mse": (0.0, 0.1)}},
        samples=7,
        model_sha256="ab" * 32,
        data_sha256="cd" * 32,
        versions={"numpy": "2"},
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    """A saved table comes back equal, floats included, and the same table gives the same bytes."""
    table().save(tmp_path / "one.json")
    loaded = CalibrationTable.load(tmp_path / "one.json")
    loaded.save(tmp_path / "two.json")
    assert loaded == table()
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert loaded.ranges("mse") == {"a": (0.0, 0.1), "b": (-1.0, 1.1)}


def test_another_model_is_refused() -> None:
    """A table is only good for the model it was measured on; both hashes are named."""
    table().check_model("ab" * 32)
    with pytest.raises(InputError, match="measured on sha256 abababababab, this file is 111111111111"):
        table().check_model("11" * 32)


def test_unknown_method_names_those_it_has() -> None:
    """Asking for a method the table lacks lists the ones it has."""
    with pytest.raises(InputError, match="minmax, mse"):
        table().ranges("entropy")


@pytest.mark.parametrize(
    "change",
    [{"schema": 99}, {"tensors": {"a": {"minmax": [2, 1]}}}, {"tensors": {"a": {"minmax": [1]}}}, {"samples": None}],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Another schema, a reversed or incomplete range and missing values are errors; so is a missing file."""
    path = tmp_path / "table.json"
    table().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="holds no calibration table"):
        CalibrationTable.load(path)
    with pytest.raises(InputError, match="holds no calibration table"):
        CalibrationTable.load(tmp_path / "missing.json")
