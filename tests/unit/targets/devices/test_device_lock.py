"""The lock on a device: one holder, void after a restart or its time, cleaning up after those who vanished."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from targets.ondevice import lock
from targets.ondevice.failure import REFUSED, Failure

A, B = "a" * 32, "b" * 32


class _Clock:
    """Uptime and boot of the device, in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uptime_s, self.boot = 1000.0, "boot-1"
        monkeypatch.setattr(lock, "_uptime_s", lambda: self.uptime_s)
        monkeypatch.setattr(lock, "_boot_id", lambda: self.boot)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    return _Clock(monkeypatch)


def _take(work: Path, token: str, lease_s: float = 60.0) -> dict[str, Any]:
    return lock.take(work, token=token, holder=f"holder {token[:1]}", lease_s=lease_s)


def test_one_holds_it_until_it_is_released(tmp_path: Path, clock: _Clock) -> None:
    """A second one is told who holds it, and gets it after the release, not before."""
    assert _take(tmp_path, A)["taken"] is True
    assert _take(tmp_path, B) == {"taken": False, "holder": "holder a", "token": A, "free_in_s": 60.0}
    assert lock.release(tmp_path, token=B) == {"released": False}
    assert lock.release(tmp_path, token=A) == {"released": True, "removed_bytes": 0, "killed": 0}
    assert _take(tmp_path, B)["taken"] is True


def test_a_folder_that_others_can_change_is_refused(tmp_path: Path, clock: _Clock) -> None:
    """Neither a link in place of the device's folder nor one that other users can write to is used."""
    (tmp_path / "theirs").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("link", "open"):
        with pytest.raises(Failure) as caught:
            _take(tmp_path / name, A)
        assert caught.value.exit_code == REFUSED
    assert list((tmp_path / "theirs").iterdir()) == list((tmp_path / "open").iterdir()) == []


def test_it_is_free_after_its_time(tmp_path: Path, clock: _Clock) -> None:
    """A lease that ran out on the clock since boot is void, and renewing moves that moment."""
    _take(tmp_path, A)
    clock.uptime_s += 59
    assert lock.renew(tmp_path, token=A, lease_s=100) == {"renewed": True}
    clock.uptime_s += 99
    assert _take(tmp_path, B)["taken"] is False
    clock.uptime_s += 2
    assert _take(tmp_path, B)["taken"] is True
    assert lock.renew(tmp_path, token=A, lease_s=100) == {"renewed": False, "holder": "holder b"}


def test_it_is_free_after_a_restart(tmp_path: Path, clock: _Clock) -> None:
    """A lease of another boot is void, however long it would last."""
    _take(tmp_path, A, lease_s=1e6)
    clock.uptime_s, clock.boot = 1.0, "boot-2"
    assert _take(tmp_path, B)["taken"] is True


@pytest.mark.parametrize(
    "torn", ["", "{", "[]", '{"token": 1}', '{"boot_id": "boot-1", "token": "x", "until_uptime_s": []}']
)
def test_a_torn_lease_is_none(tmp_path: Path, clock: _Clock, torn: str) -> None:
    """A lease file that cannot be read locks nobody out for ever."""
    (tmp_path / "lease.json").write_text(torn)
    assert _take(tmp_path, A)["taken"] is True


@pytest.mark.parametrize("token", ["", "../../x", "A" * 32, "a" * 8, "a" * 32 + "/.."])
def test_a_token_is_hex(tmp_path: Path, token: str) -> None:
    """A token names a folder, so nothing else than hex digits is taken for one."""
    with pytest.raises(Failure, match="token"):
        _take(tmp_path, token)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_and_counted(tmp_path: Path, clock: _Clock) -> None:
    """Files of a session that never ended are removed by the next taker, links not followed, programs kept."""
    _take(tmp_path, A)
    (tmp_path / "sessions" / A / "data").write_bytes(bytes(1000))
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (tmp_path / "sessions" / A / "link").symlink_to(tmp_path)
    (tmp_path / "program").mkdir()
    clock.uptime_s += 61
    taken = _take(tmp_path, B)
    assert 1000 <= taken["removed_bytes"] < 1000 + 4096
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == [B]
    assert outside.read_bytes() == b"mine"
    assert (tmp_path / "program").is_dir()


def test_only_our_leftover_programs_are_ended(tmp_path: Path, clock: _Clock) -> None:
    """A process in a session's folder that runs our program is ended; others there, and ours elsewhere, are not."""
    work = tmp_path.resolve()
    _take(work, A)
    (work / "program").mkdir()
    program = work / "program" / "x.pyz"
    program.write_text("import time; time.sleep(600)")
    other = tmp_path / "other.py"
    other.write_text("import time; time.sleep(600)")
    places = [(program, work / "sessions" / A), (other, work / "sessions" / A), (program, work)]
    running = [subprocess.Popen([sys.executable, "-I", code, "--x"], cwd=cwd) for code, cwd in places]
    try:
        clock.uptime_s += 61
        assert _take(work, B)["killed"] == 1
        assert running[0].wait(30) == -9
        assert [process.poll() for process in running[1:]] == [None, None]
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_many_takers_and_one_gets_it(tmp_path: Path) -> None:
    """Of many who try at the same moment exactly one holds the device."""
    answers = []
    tokens = [f"{number:032x}" for number in range(12)]
    threads = [threading.Thread(target=lambda token=token: answers.append(_take(tmp_path, token))) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer["taken"] for answer in answers) == 1
    assert json.loads((tmp_path / "lease.json").read_text())["token"] in tokens
