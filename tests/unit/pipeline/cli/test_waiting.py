"""What takes long and tells no share: silent when quick, a line a step in a log, nothing when quiet."""

from __future__ import annotations

import json
import time

import pytest

from pipeline.cli import waiting as module


def test_a_log_gets_a_line_for_a_slow_step_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No carriage returns, no line for what is over at once, and each slow step once."""
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with module.waiting("opening") as say:
        _until(lambda: "opening" in capsys.readouterr().err)
        say("profiling")
        _until(lambda: "profiling ..." in capsys.readouterr().err)
    monkeypatch.setattr(module, "_PATIENCE_S", 3600.0)
    with module.waiting("quick"):
        pass
    with module.waiting("hidden", quiet=True) as say:
        say("hidden too")
    assert not capsys.readouterr().err


def test_a_program_gets_each_step_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON lines, quick or slow."""
    with module.waiting("opening", as_json=True) as say:
        say("profiling")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [{"event": "Step", "text": "opening"}, {"event": "Step", "text": "profiling"}]


def _until(holds: object) -> None:
    assert callable(holds)
    for _ in range(400):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("no line came")
