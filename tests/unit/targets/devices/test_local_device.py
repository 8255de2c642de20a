"""This machine as a device: one user at once, a private place, nothing left."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from targets.devices import device
from targets.errors import DeviceError, EnvironmentFailure, RefusedError

HOLD = """
import sys, tempfile, time
from pathlib import Path
from targets.devices import device
tempfile.tempdir = sys.argv[1]
with device("local").session() as session:
    session.put(Path(sys.argv[2]), "data")
    print("held", flush=True)
    time.sleep(600)
"""


def _place() -> Path:
    return Path(tempfile.gettempdir(), f"edgepress-of-{os.getuid()}")


def test_a_killed_holder_frees_it_and_is_cleaned_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While another process holds it, its name is said; after kill -9 the next one gets it and removes the rest."""
    (tmp_path / "data").write_bytes(bytes(300_000))
    argv = [sys.executable, "-c", HOLD, tempfile.gettempdir(), tmp_path / "data"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DeviceError, match="in use") as caught, device("local").session(wait_s=0):
            pass
        assert f"process {holder.pid}" in caught.value.why
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with caplog.at_level(logging.WARNING), device("local").session(wait_s=0):
        pass
    assert "left by an interrupted run" in caplog.text
    assert not (_place() / "work").exists()


def test_a_place_that_others_can_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A working place that somebody else prepared is not used."""
    _place().mkdir()
    _place().chmod(0o777)
    with pytest.raises(RefusedError, match="edgepress-of"), device("local").session():
        pass
    _place().rmdir()
    _place().symlink_to(tempfile.gettempdir())
    with pytest.raises(RefusedError), device("local").session():
        pass


@pytest.mark.parametrize("target", ["nowhere", "file"])
def test_a_trap_in_its_place_is_refused(tmp_path: Path, target: str) -> None:
    """A link to nothing, or a file, at the working place is refused as such, and nothing is made through it."""
    (tmp_path / "file").write_bytes(b"theirs")
    _place().symlink_to(tmp_path / target)
    with pytest.raises(RefusedError, match="edgepress-of"), device("local").session():
        pass
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "file").read_bytes() == b"theirs"


def test_links_inside_are_not_followed(tmp_path: Path) -> None:
    """A link in place of the lock is an error, one in place of the working folder is removed; neither is followed."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_bytes(b"1")
    with device("local").session():
        pass
    (_place() / "work").symlink_to(tmp_path / "theirs")
    with device("local").session():
        pass
    assert (tmp_path / "theirs" / "file").read_bytes() == b"1"
    (_place() / "local.lock").unlink()
    (_place() / "local.lock").symlink_to(tmp_path / "theirs" / "file")
    with pytest.raises(EnvironmentFailure), device("local").session():
        pass
    assert (tmp_path / "theirs" / "file").read_bytes() == b"1"


def test_everything_is_given_back(tmp_path: Path) -> None:
    """A session that fails leaves neither files nor the lock."""
    (tmp_path / "data").write_bytes(b"x")

    def fail() -> None:
        with device("local").session() as session:
            session.put(tmp_path / "data", "data")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in _place().iterdir()] == ["local.lock"]
    begin = time.monotonic()
    with device("local").session(wait_s=0):
        assert time.monotonic() >= begin
