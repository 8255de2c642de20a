"""Devices made of real parts: what setup.sh unpacked, or a skip that says what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from targets.devices.registry import Registry, SshEntry

if TYPE_CHECKING:
    from phone import Phone  # these two are loaded by path below
    from sshd import Board


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated() -> ModuleType:
    """Computers that are not there: tests/devices/emulated.py."""
    return _load("emulated")


@pytest.fixture(scope="session")
def sshd() -> ModuleType:
    """A real sshd: tests/devices/sshd.py."""
    return _load("sshd")


@pytest.fixture(scope="session")
def phones() -> ModuleType:
    """A phone behind a real adb client: tests/devices/phone.py."""
    return _load("phone")


@pytest.fixture
def private_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registry and temporary folders of this test alone."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(folder / "devices"))
    return folder


@pytest.fixture
def board(
    emulated: ModuleType, sshd: ModuleType, private_places: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Board]:
    """A computer behind an sshd, with an agent that may log in there; not started, not registered."""
    parts = emulated.part("ssh")
    short = Path(tempfile.mkdtemp(prefix="ep-", dir="/tmp"))  # a socket's path has at most 107 bytes
    short.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    made = sshd.Board(parts / "sshd", private_places / "board")
    agent, path = sshd.start_agent(private_places / "board", short)
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    try:
        yield made
    finally:
        made.stop()
        for pid in made.programs():
            os.kill(pid, 9)
        agent.terminate()
        agent.wait()
        left = [entry.name for entry in short.iterdir() if entry.name.startswith("edgepress-ssh")]
        shutil.rmtree(short)
        assert not left, left


@pytest.fixture
def pi(board: Board) -> Board:
    """The board, started, and registered as ``pi``."""
    board.start()
    register(board)
    return board


def register(board: Board, name: str = "pi", python: str = sys.executable) -> None:
    """Registers the board with its key A, as `devices add` does."""
    key = subprocess.run(
        ["ssh-keygen", "-y", "-f", board.log.parent / "key_a"], capture_output=True, text=True, check=True
    )
    line = " ".join(key.stdout.split()[:2])
    Registry().put(name, SshEntry(host="edge@127.0.0.1", port=board.port, host_key=line, python=python))


@pytest.fixture
def adb(emulated: ModuleType, phones: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The adb client, with a server and a home of its own."""
    program, port = str(emulated.part("adb") / "adb"), phones.free_port()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    with phones.adb_server(program, port, tmp_path / "server.log"):
        yield program


@pytest.fixture
def phone(adb: str, phones: ModuleType, tmp_path: Path) -> Iterator[Phone]:
    """A phone that is plugged in; not registered."""
    made = phones.Phone(tmp_path, adb)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def conftest() -> ModuleType:
    """This module, for its helpers."""
    return sys.modules[__name__]
