"""Android devices over `adb`: named by serial, pinned by model and build, nothing taken on adb's word."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from targets.devices.adbclient import AdbClient, broke_off, complaint, no_client, out_of_time, says_gone
from targets.devices.answers import printable
from targets.devices.transport import ShellResult, Transport, lost
from targets.errors import DeviceError, EnvironmentFailure, InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from targets.process import ChildResult

FOLDER: Final = "/data/local/tmp/edgepress"
_SERIAL: Final = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%\[\]-]{0,127}")
_ASK_S: Final = 20.0
_SLOWEST_BYTES_PER_S: Final = 250_000
_LIMIT_BYTES: Final = 1 << 20
_DEBUGGING: Final = "unlock its screen, allow USB debugging for this computer, then run the same command again"
_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "unauthorized": ("it has not allowed this computer to debug it", _DEBUGGING),
    "authorizing": ("it has not yet allowed this computer to debug it", _DEBUGGING),
    "offline": (
        "adb lists it as offline",
        "unplug it and plug it in again, check that USB debugging is on, then run the same command again",
    ),
    "no": (
        "this account may not open its USB port",
        "install the udev rules for Android devices (Debian: android-sdk-platform-tools-common), then plug it in again",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """What a device is known by besides its serial.

    Attributes:
        model: ``ro.product.model``.
        build: ``ro.build.fingerprint``: changes with every system update.
    """

    model: str
    build: str


@final
class AdbTransport(Transport):
    """Commands and files over the machine's own adb server, always with ``-s SERIAL``.

    The server's port and keys come from adb's own variables (ANDROID_ADB_SERVER_PORT, ADB_VENDOR_KEYS, ...).

    Args:
        name: The device's name, for messages.
        serial: As ``adb devices`` lists it.
        model: The pinned model; None while the device is not registered yet.
        build: The pinned build fingerprint; the same.
        tcp: Whether a serial that is a network address is allowed.
        folder: Where our files lie on the device.
        program: The adb client, found on PATH.

    Raises:
        InputError: The serial is none.
        RefusedError: The serial is a network address, and ``tcp`` does not allow it.
    """

    kind = "adb"

    def __init__(
        self,
        name: str,
        serial: str,
        *,
        model: str | None,
        build: str | None,
        tcp: bool = False,
        folder: str = FOLDER,
        program: str = "adb",
    ) -> None:
        if not _SERIAL.fullmatch(serial):
            raise InputError(
                f"{printable(serial)[:80]!r} is no serial of an Android device",
                "serials hold letters, digits and . _ : - only",
                "copy it from the list that `adb devices` prints",
            )
        self._network = ":" in serial or "._tcp" in serial
        if self._network and not tcp:
            raise RefusedError(
                f"device {name!r} is reached over the network",
                f"the serial {serial!r} is a network address, and adb over TCP is open to everybody on that network",
                "use its USB serial, or register it as a network device if you trust the network",
            )
        self.name = name
        self.folder = folder
        self._serial = serial
        self._pinned = (model, build)
        self._client = AdbClient(program)

    def open(self) -> None:
        """Finds exactly this serial, ready, and checks model and build against the pinned ones."""
        found = self.identity()
        for what, pinned, seen in zip(("model", "build"), self._pinned, (found.model, found.build), strict=True):
            if pinned is not None and pinned != seen:
                raise RefusedError(
                    f"device {self.name!r} is not the one that was registered",
                    f"its {what} is {seen!r}, registered is {pinned!r}",
                    f"plug in the right one; if it was updated, run `edgepress devices trust {self.name}`",
                )

    def identity(self) -> DeviceIdentity:
        """Model and build of the device, whatever is pinned.

        Raises:
            DeviceError: It cannot be reached, does not let us in, or does not tell.
        """
        self._check_ready()
        answer = self.shell("getprop ro.product.model\ngetprop ro.build.fingerprint", timeout_s=_ASK_S)
        lines = [printable(line).strip()[:256] for line in answer.stdout.decode("utf-8", "replace").splitlines()]
        if answer.status or len(lines) != len(self._pinned) or not all(lines):
            raise DeviceError(
                f"device {self.name!r} does not say what it is",
                "getprop gave no ro.product.model and ro.build.fingerprint",
                "use a device that runs Android",
            )
        return DeviceIdentity(model=lines[0], build=lines[1])

    def close(self) -> None:
        """Nothing of ours outlives a call; a network device is left connected to the shared server."""

    def interactive(self, command: Sequence[str]) -> int:
        """Runs a command there on this terminal, or a shell when there is none; returns its exit status."""
        words = [shlex.join(command)] if command else []
        program = self._client.program
        try:
            return subprocess.run([program, "-s", self._serial, "shell", *words], check=False).returncode
        except OSError as error:
            raise no_client(program, str(error.strerror)) from error

    def _check_ready(self) -> None:
        self._client.server("start-server")
        if self._network:
            self._client.server("connect", self._serial)  # ends with 0 whatever happens: the list below tells
        states = self._client.states()
        state = states.pop(self._serial, None)
        if state is None:
            others = ", ".join(f"{serial} ({state})" for serial, state in sorted(states.items())) or "none"
            raise DeviceError(
                f"device {self.name!r} is not there",
                f"adb does not list the serial {self._serial}; it lists: {others}",
                "plug it in, check that USB debugging is on, then run the same command again",
            )
        if state != "device":
            unknown = (f"it is in the state {state!r}", "boot it into Android, then run the same command again")
            raise DeviceError(f"device {self.name!r} does not answer", *_STATES.get(state, unknown))
        features = self._adb(["features"], _ASK_S)
        if features.returncode:
            self._check_there(features)
        if b"shell_v2" not in features.stdout.split():
            raise DeviceError(
                f"device {self.name!r} is too old",
                "its adb has no shell protocol 2, which came with Android 7",
                "use a device with Android 7 or later",
            )

    def _shell(self, script: str, timeout_s: float, limit_bytes: int) -> ShellResult:
        words = ["shell", "-n", "-T", f"sh -c {shlex.quote(script)}"]
        child = self._adb(words, timeout_s, limit_bytes=limit_bytes)
        if child.returncode and not child.stdout:
            self._check_there(child)
        return ShellResult(status=child.returncode, stdout=child.stdout, stderr=child.stderr)

    def _push(self, local: Path, remote: str) -> None:
        child = self._adb(["push", "--", str(local), remote], _ASK_S + local.stat().st_size / _SLOWEST_BYTES_PER_S)
        if child.returncode:
            self._check_copy(child)
            raise DeviceError(
                f"device {self.name!r} did not take {local.name}",
                complaint(child),
                f"free space on it, and check that {self.folder} can be written",
            )

    def _pull(self, remote: str, local: Path, max_bytes: int) -> None:
        local.write_bytes(b"")  # where a file lies, adb takes no folder, whose names the device would choose
        patience_s = _ASK_S + max_bytes / _SLOWEST_BYTES_PER_S
        child = self._adb(["pull", "--", remote, str(local)], patience_s, file_bytes=max_bytes)
        if child.returncode or not local.is_file():
            self._check_copy(child)
            raise DeviceError(
                f"device {self.name!r} did not give {remote}",
                complaint(child),
                "check that the device is up, then run the same command again",
            )

    def _check_copy(self, child: ChildResult) -> None:
        """The same of a copy; adb may list a device again before it tells that the copy was cut."""
        self._check_there(child)
        if broke_off(child):
            raise lost(self.name, "the copy broke off")

    def _check_there(self, child: ChildResult) -> None:
        """Raises DeviceLost where adb's words, or its list of devices, say that the device has gone."""
        said = complaint(child)
        if says_gone(said):
            raise lost(self.name, f"adb says: {said}")
        if self._client.states().get(self._serial) != "device":
            raise lost(self.name, "adb does not list it any more")

    def _adb(
        self, words: Sequence[str], timeout_s: float, *, limit_bytes: int = _LIMIT_BYTES, file_bytes: int | None = None
    ) -> ChildResult:
        """One call about this device: out of time is a lost device, too much data one that is not to be trusted."""
        try:
            return self._client.run(
                ["-s", self._serial, *words], timeout_s=timeout_s, limit_bytes=limit_bytes, file_bytes=file_bytes
            )
        except EnvironmentFailure as error:
            if out_of_time(error):
                raise lost(self.name, f"no answer for {timeout_s:g} s while adb ran {words[0]}") from error
            if "which is the limit" in error.why:
                raise DeviceError(
                    f"device {self.name!r} sent too much", error.why, "look at what runs on it, then try again"
                ) from error
            raise
