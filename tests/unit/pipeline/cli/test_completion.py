"""Shell completion completes, and costs nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("edgepress sea", "search"),
        ("edgepress run --tens", "--tensorboard"),
        ("edgepress run x -t raspberry-pi-5", "raspberry-pi-5"),
        ("edgepress run x --device loc", "local"),
        ("edgepress targets show x86-64-vn", "x86-64-vnni"),
        ("edgepress explain W-FE", "W-FEW"),
        ("edgepress report x --format ht", "html"),
        ("edgepress run exam", "files"),
        ("edgepress run x -t my-board", "files"),
    ],
)
def test_bash_completes(line: str, found: str) -> None:
    """Promise: the script works in a real bash; where a path may stand, bash is told to complete files."""
    words = line.split()
    script = f"""
        compopt() {{ [ "$2" = default ] && echo files; }}
        eval "$(edgepress completion bash)"
        COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
        _edgepress_completion edgepress {words[-1]} {words[-2]}
        echo "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert found in done.stdout.split(), done.stderr
