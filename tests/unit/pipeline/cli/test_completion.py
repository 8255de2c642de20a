"""Shell completion completes, and costs nothing else."""

from __future__ import annotations

import pytest

from pipeline.cli import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise: `edgepress completion SHELL` prints a script that asks the program."""
    monkeypatch.setattr("sys.argv", ["edgepress", "completion", shell])
    assert main._run() == 0
    assert "_EDGEPRESS_COMPLETE" in capsys.readouterr().out


def test_the_program_answers_the_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Promise: commands are completed without running any."""
    monkeypatch.setenv("_EDGEPRESS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "edgepress sea")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setattr("sys.argv", ["edgepress"])
    main._run()
    assert "search" in capsys.readouterr().out
