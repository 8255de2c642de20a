"""run.json: what is in it is checked, and faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.render import run_json
from pipeline.reporting.schema import read_run, run_report
from targets.errors import InputError


def test_every_fault_is_named_with_its_place(full_run: dict[str, Any]) -> None:
    """An unknown key, a wrong type and a missing part are reported together, by dotted path."""
    full_run["colour"] = "red"
    full_run["candidates"][0]["latency_ms"]["value"] = "fast"
    del full_run["verdict"]["sentence"]
    with pytest.raises(InputError) as caught:
        run_report(full_run)
    places = {fault.where for fault in caught.value.faults}
    assert places == {"colour", "candidates.0.latency_ms.value", "verdict.sentence"}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(number: float, full_run: dict[str, Any]) -> None:
    """A NaN never reaches a report."""
    full_run["candidates"][0]["accuracy"] = number
    with pytest.raises(InputError, match="accuracy"):
        run_report(full_run)


def test_a_run_survives_the_disk(full_run: dict[str, Any], bare_run: dict[str, Any], tmp_path: Path) -> None:
    """What is written as run.json is read back as the same report."""
    for run in (full_run, bare_run):
        (tmp_path / "run.json").write_text(run_json(run))
        assert read_run(tmp_path / "run.json") == run_report(run)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"schema": 2}', b"[" * 100_000, b"\xff"])
def test_a_file_that_is_no_run_is_the_users_fault(content: bytes, tmp_path: Path) -> None:
    """Garbage and other layouts end in an input error that names the file."""
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json"):
        read_run(tmp_path / "run.json")
    with pytest.raises(InputError, match="cannot read"):
        read_run(tmp_path / "none.json")


def test_the_shipped_candidate_is_found(full_run: dict[str, Any]) -> None:
    """The report knows what shipped, and that nothing did."""
    shipped = run_report(full_run).shipped
    assert shipped is not None
    assert shipped.name == "int8"
    full_run["candidates"][1]["shipped"] = False
    assert run_report(full_run).shipped is None


def test_private_paths_do_not_reach_the_file(full_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The home folder and tokens are not written, and the text is the same each time."""
    monkeypatch.setenv("HOME", "/home/ann")
    full_run["reproduce"] = ["edgepress run /home/ann/secret-project/recipe.toml"]
    full_run["conditions"]["url"] = "https://me:canary@host"
    shown = run_json(full_run)
    assert "/home/ann" not in shown
    assert "canary" not in shown
    assert json.loads(shown)["reproduce"] == ["edgepress run ~/secret-project/recipe.toml"]
    assert shown == run_json(full_run)
