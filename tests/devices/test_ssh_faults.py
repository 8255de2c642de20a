"""A device behind a real sshd that goes away, hangs, or was left in the middle: bounded, said, cleaned."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from targets.devices import device
from targets.errors import DeviceError, DeviceLost, EdgepressError, EnvironmentFailure, RefusedError

if TYPE_CHECKING:
    from sshd import Board  # loaded by path, see conftest.py

    from targets.devices.base import Session

pytestmark = pytest.mark.devices

LONG = ["sentinel", "--repeats", "1000000"]
"""Some minutes of arithmetic on any computer."""
HOST = """
import sys
from pathlib import Path
from targets.devices import device
with device("pi").session() as session:
    session.put(Path(sys.argv[1]), "large.bin")
    session.run(["sentinel", "--repeats", "1000000"], timeout_s=600)
"""


def _when(condition: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    """Does something as soon as a condition holds, or nothing when it never does."""

    def wait() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if condition():
                then()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _until(condition: Callable[[], object]) -> None:
    _when(condition, lambda: None).join()
    assert condition()


def _lost_while(pi: Board, fault: Callable[[], object], kind: type[EdgepressError]) -> EdgepressError:
    """The error of a session in which the fault came while a program ran."""

    def use() -> None:
        with device("pi").session() as session:
            session.facts()
            thread = _when(lambda: any(map(_runs_sentinel, pi.programs())), fault)
            try:
                session.run(LONG, timeout_s=200)
            finally:
                thread.join()

    with pytest.raises(kind) as caught:
        use()
    return caught.value


def _runs_sentinel(pid: int) -> bool:
    try:
        return b"\0sentinel\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_the_next_one_takes_over_from_a_killed_host(
    pi: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After kill -9 of the host its program runs on; the next session ends it, removes its files, and says so."""
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(2_000_000))
    host = subprocess.Popen([sys.executable, "-c", HOST, large], start_new_session=True)
    _until(lambda: any(map(_runs_sentinel, pi.programs())))
    host.kill()
    host.wait()
    [orphan] = pi.programs()
    with caplog.at_level(logging.WARNING), device("pi").session(wait_s=60) as session:
        assert orphan not in pi.programs()
        assert session.facts().fingerprint
    assert "removed 2.0 MB left by an interrupted run" in caplog.text
    assert [name for name in pi.files() if not name.endswith(".pyz")] == [".edgepress/lock"]


def test_a_killed_host_leaves_no_connection(pi: Board, tmp_path: Path) -> None:
    """The connection of a host that was killed ends by itself."""
    (tmp_path / "f").write_bytes(b"1")
    host = subprocess.Popen([sys.executable, "-c", HOST, tmp_path / "f"], start_new_session=True)
    _until(pi.programs)
    assert pi.connections()
    host.kill()
    host.wait()
    _until(lambda: not pi.connections())


def test_a_broken_connection_loses_no_answer(pi: Board) -> None:
    """The connection breaks while the program runs: we connect again and read the answer that lies there."""
    with device("pi").session() as session:
        quick = session.run(["sentinel"], timeout_s=60).result
        repeats = str(int(quick["repeats"]) * 30)  # about 3 s

        thread = _when(lambda: any(map(_runs_sentinel, pi.programs())), lambda: pi.signal_connections(signal.SIGKILL))
        answer = session.run(["sentinel", "--repeats", repeats], timeout_s=60)
        thread.join()
        assert str(answer.result["repeats"]) == repeats
        assert session.facts().fingerprint
    assert pi.log.read_text().count("Accepted publickey") == 2


def test_a_device_that_goes_away_is_lost(pi: Board, caplog: pytest.LogCaptureFixture) -> None:
    """The sshd dies in mid-run: DeviceLost. Its orphan is ended when the device is back and used again."""
    caught = _lost_while(pi, pi.stop, DeviceLost)
    assert caught.what == "device 'pi' was lost"
    assert "while it ran sentinel" in caught.why
    assert "run the same command again" in caught.fix
    assert caught.exit_code == 6
    [orphan] = pi.programs()
    pi.start()
    with caplog.at_level(logging.WARNING), device("pi").session(wait_s=30):
        assert orphan not in pi.programs()
    assert "ended 1 programs of an interrupted run" in caplog.text


def test_a_device_that_hangs_is_lost(pi: Board) -> None:
    """Everything over there stands still: after 15 s without an answer, and one more try, it counts as lost."""

    def freeze() -> None:
        pi.signal_connections(signal.SIGSTOP)
        pi.signal_listener(signal.SIGSTOP)

    try:
        caught = _lost_while(pi, freeze, DeviceLost)
    finally:
        pi.signal_connections(signal.SIGCONT)
        pi.signal_listener(signal.SIGCONT)
    assert caught.why == "no answer for 15 s while it ran sentinel"


def test_a_program_that_hangs_is_ended(pi: Board) -> None:
    """A program over there that does not end in time is killed, and the session goes on."""
    with device("pi").session() as session:
        with pytest.raises(DeviceError, match="was stopped") as caught:
            session.run(LONG, timeout_s=1)
        assert not isinstance(caught.value, DeviceLost)
        assert pi.programs() == []
        assert session.facts().fingerprint


def test_another_device_in_its_place_is_refused_in_mid_run(pi: Board) -> None:
    """The connection breaks and a host with another key answers the next one: nothing is taken from it."""

    def swap() -> None:
        pi.stop()
        pi.start("b")

    assert "CHANGED" in _lost_while(pi, swap, RefusedError).what
    assert "Accepted" not in pi.log.read_text()


def test_missing_numpy_is_named(board: Board, conftest: ModuleType, tmp_path: Path) -> None:
    """Without the runtime there, facts still answer, and a measurement says what to install on the device."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    board.start()
    conftest.register(board, python=str(tmp_path / "bare" / "bin" / "python"))
    assert device("pi").facts().runtime_version is None
    with device("pi").session() as session, pytest.raises(DeviceError) as caught:
        session.run(["measure", "e", "--samples", "s.npz"], timeout_s=60)
    assert "numpy" in caught.value.what
    assert "'pi'" in caught.value.what
    assert "pip install" in caught.value.fix


def test_a_full_disk_for_answers_is_named(board: Board, conftest: ModuleType, tmp_path: Path) -> None:
    """A device whose disk fills up between two commands: the answer that cannot be written is a full disk."""
    board.start(disk_kb=1200)
    conftest.register(board)

    def run_some(session: Session) -> None:
        for _ in range(3):
            session.run(["facts"], timeout_s=60)

    with device("pi").session() as session:
        for size in (400_000, 100_000, 40_000, 10_000, 5_000, 4096, 4096, 4096):
            source = tmp_path / "fill.bin"
            source.write_bytes(os.urandom(size))
            try:
                for number in range(4):
                    session.put(source, f"fill-{size}-{number}")
            except EnvironmentFailure:
                continue
        with pytest.raises(EnvironmentFailure, match="disk of device 'pi' is full"):
            run_some(session)
