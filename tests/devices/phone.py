"""A phone that is not there: a protocol fake of the device in a process of its own, behind the real adb client."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, final

from targets.devices.adb import AdbTransport
from targets.devices.remote import RemoteDevice

MODEL: Final = "Board"
BUILD: Final = "edge/board/board:14/UP1A/1:user/release-keys"
PATIENCE_S: Final = 20.0


@final
class Phone:
    """A fake device in a process of its own, and what a test may do to it."""

    def __init__(self, folder: Path, adb: str) -> None:
        self.folder = folder / "phone"
        self.folder.mkdir()
        self._faults = folder / "faults.json"
        self._adb = adb
        program = Path(__file__).with_name("fake_adbd.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(program), str(self.folder), "--faults", str(self._faults)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        word, port = self._process.stdout.readline().split()
        assert word == "ready"
        self.serial = f"127.0.0.1:{port}"

    def fault(self, service: str, what: str, match: str = "") -> None:
        self._faults.write_text(json.dumps([{"in": service, "do": what, "match": match}]))

    def well(self) -> None:
        self._faults.write_text("[]")

    def unplug(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.unplug()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def transport(self, *, model: str | None = MODEL, build: str | None = BUILD) -> AdbTransport:
        return AdbTransport(
            "phone", self.serial, model=model, build=build, tcp=True, folder=str(self.folder), program=self._adb
        )

    def device(self, python: str) -> RemoteDevice:
        return RemoteDevice("phone", self.transport, kind="adb", python=python)


@contextlib.contextmanager
def adb_server(program: str, port: int, log: Path) -> Iterator[None]:
    """A server of the adb client's own, on that port of loopback."""
    argv = [program, "-L", f"tcp:localhost:{port}", "nodaemon", "server"]
    with log.open("wb") as output:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            until(lambda: _listens(port))
            yield
        finally:
            server.kill()
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(happens: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
