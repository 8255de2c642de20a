"""A run that is stopped: said in three lines, no process left behind, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]


def descendants(pid: int) -> list[int]:
    """All living processes below ``pid``."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += map(int, task.read_text(encoding="ascii").split())
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def interrupt(
    command: list[str], environment: dict[str, str], at: str, sent: signal.Signals, *, children: bool = False
) -> tuple[int, str, list[int]]:
    """Starts a command, sends a signal once it has written a line that holds ``at`` (and has children, where wanted).

    Returns:
        Exit code, all of stderr, and the processes it had when the signal came.
    """
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a background shell ignores it
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if at in line:
                break
        while children and not descendants(process.pid):
            time.sleep(0.01)
        started = descendants(process.pid)
        process.send_signal(sent)
        said += process.stderr.read()
        return process.wait(timeout=60), said, started


def gone(pids: list[int]) -> bool:
    """Whether all processes end within seconds (the kernel may take a moment)."""
    for _ in range(100):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def test_stopped_in_training(edgepress: Run, edgepress_program: Path, project: SimpleNamespace, tmp_path: Path) -> None:
    """Control-C: exit 130 and three lines; the same command continues with what was finished."""
    arguments = ["prune", str(project.folder), "--set", "train.epochs=10"]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(tmp_path / "cache")}
    found, said, _ = interrupt([str(edgepress_program), *arguments], environment, "epoch ", signal.SIGINT)
    assert found == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-3:] == [
        "error: interrupted by SIGINT", "  why: what is finished is kept: stages, and epochs of a training",
        "  fix: run the same command to continue",
    ]  # fmt: skip
    done = edgepress(*arguments, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("data                     reused")
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_stopped_while_measuring(
    result: SimpleNamespace, edgepress: Run, edgepress_program: Path, cache: Path, tmp_path: Path
) -> None:
    """The measured processes die with the run; the same command then reuses all that was built, and finishes."""
    arguments = ["run", str(result.recipe), "--out", str(tmp_path / "out"), "--set", "benchmark.budget_s=7"]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(cache)}
    found, said, started = interrupt(
        [str(edgepress_program), *arguments], environment, "block ", signal.SIGTERM, children=True
    )
    assert found == 143, said
    assert "Traceback" not in said
    assert started, "nothing was being measured when the signal came"
    assert gone(started)
    assert not (tmp_path / "out").exists()
    done = edgepress(*arguments)
    assert done.returncode == 0, done.stderr
    reused = [line.split()[0] for line in done.stderr.splitlines() if " reused " in line]
    assert "build:int8" in reused, "all that was built before the measurement"
    assert "benchmark" not in reused


@pytest.mark.parametrize("arguments", [["targets", "list"], ["schema", "recipe"], ["--help"]])
def test_a_closed_pipe_is_no_error(arguments: list[str], edgepress_program: Path) -> None:
    """`edgepress ... | head -0` ends quietly with 0."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [edgepress_program, *arguments], stdout=closed, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


def test_a_run_outlives_those_who_watch_it(
    result: SimpleNamespace, edgepress_program: Path, cache: Path, tmp_path: Path
) -> None:
    """With both outputs closed the results are written all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        command = [edgepress_program, "run", result.recipe, "--out", tmp_path]
        environment = {**os.environ, "EDGEPRESS_CACHE": str(cache)}
        done = subprocess.run(command, stdout=closed, stderr=closed, check=False, env=environment, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "stripes" / "host" / "bundle.tar.gz").is_file()
