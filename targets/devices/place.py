"""What we have on a remote device: our folder, the program in it by its hash, and how files get there whole."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.devices import scripts
from targets.devices.answers import MAX_ANSWER_BYTES, RawAnswer, printable
from targets.errors import DeviceError, DeviceLost, EnvironmentFailure
from targets.files import disk_guard, megabytes, sha256_bytes, sha256_file
from targets.ondevice_pack import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from targets.devices.transport import ShellResult, Transport

_SHORT_S: Final = 30.0
_GRACE_S: Final = 30.0
_SLOW_BYTES_PER_S: Final = 50_000
_SIGNAL: Final = 128
_ROOM: Final = re.compile(rb"\s([0-9]+)\s+[0-9]+%\s")
_REAL_PATH: Final = re.compile(r"/[A-Za-z0-9/_.@+-]{0,512}")
_LITTLE_ROOM_BYTES: Final = 1 << 20


@final
class Place:
    """Our folder on a device whose transport is open, with the device program in it.

    Attributes:
        name: The device's name.
        transport: The connection.
        base: The folder's real path there.
        program: The program's real path there.
        is_lost: Whether the device stopped answering.

    Raises:
        DeviceError: Python is missing there, or the program does not get there.
        EnvironmentFailure: Its disk is full.
    """

    def __init__(self, name: str, transport: Transport, python: str) -> None:
        self.name = name
        self.transport = transport
        self.is_lost = False
        self.base = transport.folder
        self._python = python
        self._packed = pack()
        sha256 = sha256_bytes(self._packed)
        there = f"program/{sha256}.pyz"
        self.program = self._begin(there, sha256)

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command line of the device program there."""
        return [self._python, "-I", self.program, *command]

    def call(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        """Runs the program in our folder; its answer comes back over the connection."""
        begin_s = time.monotonic()
        done = self.shell(scripts.direct(self.base, self.argv(command)), timeout_s + _GRACE_S, MAX_ANSWER_BYTES + 1024)
        wall_s = time.monotonic() - begin_s
        status = _SIGNAL - done.status if done.status > _SIGNAL else done.status
        return RawAnswer(returncode=status, stdout=done.stdout, stderr=done.stderr, wall_s=wall_s)

    def shell(self, script: str, timeout_s: float, limit_bytes: int = 1 << 16) -> ShellResult:
        """`Transport.shell`, which remembers a loss."""
        try:
            return self.transport.shell(script, timeout_s=timeout_s, limit_bytes=limit_bytes)
        except DeviceLost:
            self.is_lost = True
            raise

    def reconnect(self) -> None:
        """Connects anew after a loss.

        Raises:
            RefusedError: Another device answers now.
            DeviceLost: None does.
        """
        self.transport.close()
        try:
            self.transport.open()
        except DeviceError as error:
            raise DeviceLost(error.what, error.why, error.fix) from error
        self.is_lost = False

    def push_s(self, source: Path) -> float:
        """How long sending a file may take, in seconds."""
        return _GRACE_S + source.stat().st_size / _SLOW_BYTES_PER_S

    def send(self, source: Path, sha256: str, folder: str, name: str) -> None:
        """Copies a file to ``folder/name`` there: under another name first, its content checked there, then renamed.

        Raises:
            EnvironmentFailure: The disk there is full.
            DeviceError: It did not arrive as it was sent, twice.
            DeviceLost: The connection broke.
        """
        temporary = f".in-{secrets.token_hex(8)}"
        script = scripts.accept(folder, temporary, name, sha256, self._python)
        status = 0
        for _ in range(2):
            self._push(source, folder, temporary)
            status = self.shell(script, self.push_s(source)).status
            if status == 0:
                return
            if status == scripts.NOT_WRITTEN:
                raise self.full(source.stat().st_size)
        raise DeviceError(
            f"sending {source.name!r} to device {self.name!r} failed twice",
            "its content was another one there" if status == scripts.DIFFERS else f"the device said {status}",
            "check that device's disk and connection, then run the same command again",
        )

    def full(self, size_bytes: int | None, room_bytes: int | None = None) -> EnvironmentFailure:
        """The error for a disk there that takes no more."""
        room = "" if room_bytes is None else f", {megabytes(room_bytes)} are free"
        what = "this run's files" if size_bytes is None else megabytes(size_bytes)
        return EnvironmentFailure(
            f"the disk of device {self.name!r} is full",
            f"there is no room for {what} in {self.base}{room}",
            f"free at least {max((size_bytes or 0) * 1.1e-6, 10):.0f} MB there, then run the same command again",
        )

    def _push(self, source: Path, folder: str, temporary: str) -> None:
        try:
            self.transport.push(source, f"{folder}/{temporary}")
        except DeviceLost:
            self.is_lost = True
            raise
        except DeviceError as error:
            room_bytes = self._room_bytes(folder, temporary)
            size_bytes = source.stat().st_size
            if room_bytes is not None and room_bytes < size_bytes + _LITTLE_ROOM_BYTES:
                raise self.full(size_bytes, room_bytes) from error
            raise

    def _room_bytes(self, folder: str, temporary: str) -> int | None:
        found = _ROOM.search(self.shell(scripts.discard(folder, temporary), _SHORT_S).stdout)
        return int(found[1]) * 1024 if found else None

    def _begin(self, there: str, sha256: str) -> str:
        done = self.shell(scripts.begin(self.transport.folder, self._python, there), 2 * _SHORT_S)
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        if done.status != 0 or not lines or not _REAL_PATH.fullmatch(lines[0]):
            raise self._no_place(done, lines)
        self.base = lines[0]
        if lines[1:] != [sha256]:
            with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
                local = Path(folder, "ondevice.pyz")
                with disk_guard("packing the device program", path=local):
                    local.write_bytes(self._packed)
                self.send(local, sha256_file(local), self.base, there)
        return f"{self.base}/{there}"

    def _no_place(self, done: ShellResult, lines: list[str]) -> EnvironmentFailure | DeviceError:
        said = printable(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])[:300]
        if "No space left" in said:
            return self.full(None)
        if done.status == scripts.NO_PYTHON:
            return DeviceError(
                f"device {self.name!r} has no {self._python}",
                "the device program needs Python 3.8 or newer there",
                "install it there (Debian: sudo apt install python3), or register the device anew with --python PATH",
            )
        if done.status == scripts.OLD_PYTHON:
            return DeviceError(
                f"{self._python} of device {self.name!r} cannot be used",
                "it does not start, or is older than Python 3.8",
                "install a newer one there, or register the device anew with --python PATH",
            )
        why = said or (f"it answered {printable(lines[0])[:80]!r}" if lines else f"the shell there said {done.status}")
        return DeviceError(
            f"device {self.name!r} has no folder for us",
            why,
            f"check that {self.transport.folder!r} can be made and written there, by plain names only",
        )
