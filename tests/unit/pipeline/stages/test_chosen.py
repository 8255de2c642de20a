"""The chosen int8 file outlives an interruption of what follows, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.stages import chosen
from pipeline.stages.chosen import Chosen

SUMMARY = {"method": "mse", "tried": [], "output_snr_db": 40.5}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """A chosen file with what it was made from."""
    (out := tmp_path / "out").mkdir()
    (out / "model.onnx").write_bytes(b"int8")
    (out / "layers.json").write_text("[]", encoding="utf-8")
    (float_model := tmp_path / "float.onnx").write_bytes(b"float")
    return out, float_model


def test_what_was_kept_comes_back(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Promise: files, float model and summary of the choice are there again, whatever became of the first ones."""
    Chosen(tmp_path / "kept").keep(*made, SUMMARY)
    (made[0] / "model.onnx").write_bytes(b"trained")
    (again := tmp_path / "again").mkdir()
    assert Chosen(tmp_path / "kept").restore(again, tmp_path / "f.onnx") == SUMMARY
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {"model.onnx": b"int8", "layers.json": b"[]"}
    assert (tmp_path / "f.onnx").read_bytes() == b"float"


def test_half_a_copy_is_none(made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: who dies while keeping it leaves nothing that is taken for it, and the next one can keep it."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(chosen, "replace_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        Chosen(tmp_path / "kept").keep(*made, SUMMARY)
    monkeypatch.undo()
    kept = Chosen(tmp_path / "kept")
    assert kept.restore(made[0], made[1]) is None
    kept.keep(*made, SUMMARY)
    assert kept.restore(made[0], made[1]) == SUMMARY


def test_where_nothing_outlives_a_run_nothing_is_kept(made: tuple[Path, Path]) -> None:
    """No folder, no file."""
    kept = Chosen(None)
    kept.keep(*made, SUMMARY)
    assert kept.restore(*made) is None
