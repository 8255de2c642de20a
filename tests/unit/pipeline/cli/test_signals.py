"""Signals to the command: the first ends it in order, the second at once; children never outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_COMMAND = """
import sys, time
from pathlib import Path
from pipeline.cli import main
from targets.process import Limits, run_limited

def work():
    Path(sys.argv[1]).write_text("ready")
    try:
        {wait}
    finally:
        {cleaning}

main._invoke = work
main.main()
"""
_SLEEP = "time.sleep(60)"
_CHILD = (
    "import signal, sys, time; from pathlib import Path\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); import os\n"
    "Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)\n"
)


def _heed_all() -> None:
    """A background shell ignores SIGINT for its children, nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _ended(tmp_path: Path, *sent: signal.Signals, wait: str = _SLEEP, cleaning: str = "pass") -> tuple[int, str]:
    """Exit code and stderr of a command that is at work when the signals come."""
    ready = tmp_path / "ready"
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND.format(wait=wait, cleaning=cleaning), str(ready), str(tmp_path / "pid")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=_heed_all,  # noqa: PLW1509 - no threads here
    ) as process:
        for number in sent:
            while not (ready.exists() and ready.read_text()):
                time.sleep(0.01)
            process.send_signal(number)
            time.sleep(0.2)
        assert process.stderr is not None
        said = process.stderr.read()
        return process.wait(timeout=60), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_told_in_three_lines(number: signal.Signals, tmp_path: Path) -> None:
    """Promise R7: 128 + signal, three lines, no traceback; a closed terminal (SIGHUP) is no other case."""
    code, said = _ended(tmp_path, number)
    assert code == 128 + number
    assert said.splitlines() == [
        f"error: interrupted by {number.name}", "  why: what is finished is kept: stages, and epochs of a training",
        "  fix: run the same command to continue",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    """Promise R7: whoever cannot wait for the tidying up sends another one: the process ends, without a traceback."""
    code, said = _ended(tmp_path, number, number, cleaning=_SLEEP)
    assert code == 128 + number
    assert said == ""


def test_a_child_that_ignores_signals_dies_with_the_command(tmp_path: Path) -> None:
    """Promise R7: a child deaf to SIGTERM is killed, and the command still ends as if interrupted."""
    wait = f"run_limited([sys.executable, '-c', {_CHILD!r}, sys.argv[2]], limits=Limits(timeout_s=60), what='work')"
    code, said = _ended_with_child(tmp_path, wait)
    assert code == 143
    assert "Traceback" not in said
    assert not _runs(int((tmp_path / "pid").read_text()))


def _ended_with_child(tmp_path: Path, wait: str) -> tuple[int, str]:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            _COMMAND.format(wait=wait, cleaning="pass"),
            str(tmp_path / "ready"),
            str(tmp_path / "pid"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        pid = tmp_path / "pid"
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
        return process.wait(timeout=60), said


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_what_the_caller_ignores_stays_ignored(tmp_path: Path) -> None:
    """Promise R7: under nohup a closed terminal does not end the run."""
    program = _COMMAND.format(wait="time.sleep(1)", cleaning="pass")
    ready = tmp_path / "ready"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(ready)],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # noqa: PLW1509 - as nohup does
    ) as process:
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == 0
