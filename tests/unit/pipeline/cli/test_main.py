"""Errors to exit codes and three lines."""

from __future__ import annotations

import signal
import sys

import click
import pytest

from pipeline.cli import main
from targets.errors import (
    BudgetError,
    DeviceError,
    EdgepressError,
    EnvironmentFailure,
    Fault,
    InputError,
    RefusedError,
    UsageError,
    faults_error,
)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """Whatever is put in under "error" is raised by the command line."""
    box: dict[str, BaseException] = {}

    def fail(_context: click.Context) -> None:
        raise box["error"]

    monkeypatch.setattr(main.cli, "invoke", fail)
    monkeypatch.setattr(sys, "argv", ["edgepress", "run"])
    return box


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (InputError, 3), (RefusedError, 4), (EnvironmentFailure, 5), (DeviceError, 6), (BudgetError, 7)],
)
def test_a_user_s_error_is_three_lines(
    kind: type[EdgepressError], code: int, raising: dict[str, BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """What, why and fix, with the documented exit code, and no traceback."""
    raising["error"] = kind("this happened", "because", "do that")
    assert main._run() == code
    assert capsys.readouterr().err == "error: this happened\n  why: because\n  fix: do that\n"


def test_debug_adds_the_traceback(
    raising: dict[str, BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only on request."""
    raising["error"] = InputError("a", "b", "c")
    monkeypatch.setattr(sys, "argv", ["edgepress", "--debug", "run"])
    assert main._run() == 3
    assert "Traceback" in capsys.readouterr().err


def test_several_faults_are_a_line_each(raising: dict[str, BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    """All of them at once."""
    faults = [Fault(where=f"key{i}", what="is wrong", fix="mend it") for i in range(3)]
    raising["error"] = faults_error("the recipe", faults)
    assert main._run() == 3
    assert capsys.readouterr().err.splitlines()[1:] == [f"  key{i}: is wrong; mend it" for i in range(3)]


def test_our_own_bug_is_70_with_a_traceback(
    raising: dict[str, BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """And asks for a report."""
    raising["error"] = KeyError("oops")
    assert main._run() == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bug in edgepress" in said


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (KeyboardInterrupt(), 130, "SIGINT"),
        (click.Abort(), 130, "SIGINT"),
        (main._Stopped(signal.SIGTERM), 143, "SIGTERM"),
    ],
)
def test_interrupted_says_how_to_go_on(
    error: BaseException, code: int, name: str, raising: dict[str, BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """128 plus the signal."""
    raising["error"] = error
    assert main._run() == code
    assert capsys.readouterr().err.splitlines()[0] == f"error: interrupted by {name}"


def test_foreign_names_cannot_drive_the_terminal(
    raising: dict[str, BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences and line breaks of a message are shown as harmless characters."""
    raising["error"] = InputError("file \x1b[2J\nis odd", "it\x07", "rename")
    main._run()
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said
    assert len(said.splitlines()) == 3


def test_an_exit_that_is_no_closed_pipe_is_not_swallowed(raising: dict[str, BaseException]) -> None:
    """Only the end of a pipe turns into success."""
    raising["error"] = SystemExit(9)
    with pytest.raises(SystemExit) as caught:
        main._run()
    assert caught.value.code == 9
