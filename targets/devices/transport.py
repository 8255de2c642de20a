"""How commands and files reach a device: one small contract, so that ssh and adb differ in nothing else."""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from targets.errors import DeviceLost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_LIMIT_BYTES: Final = 1 << 20
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9/_.@+-]{1,1024}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellResult:
    """How a script ended on a device.

    Attributes:
        status: Its exit status there, 128 + n after signal n.
        stdout: What it wrote there, as it is.
        stderr: The same; nothing where the connection knows one stream only.
    """

    status: int
    stdout: bytes
    stderr: bytes


class Transport(ABC):
    """A connection to one device; opened before use, closed after it, and opened again after a loss.

    Scripts are for a POSIX ``sh`` and hold all their words quoted (`shlex.quote`). Paths on the device are plain
    (letters, digits, ``/_.@+-``), so that no shell or copying program on the way reads more into them.
    """

    name: str
    """The device's name, for messages."""
    kind: str
    """``ssh`` or ``adb``."""
    folder: str
    """Where our files lie there: absolute, or relative to the folder a script starts in."""

    @abstractmethod
    def open(self) -> None:
        """Connects, and checks that it is the device that was registered.

        Raises:
            RefusedError: It is another one.
            DeviceError: It cannot be reached, or does not let us in.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends the connection and all we started for it on this machine; never raises, and twice is fine."""

    @final
    def shell(self, script: str, *, timeout_s: float, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> ShellResult:
        """Runs a script there and waits for it.

        Marks before and after its output carry its exit status: what a login prints, and how ssh or adb itself ends,
        says nothing.

        Args:
            script: For ``sh``; ``exit`` in it ends it alone.
            timeout_s: After this time the device counts as lost; what runs there is not ended.
            limit_bytes: The most it may write.

        Raises:
            DeviceLost: The connection broke, or the answer is not whole.
            DeviceError: It wrote more than the limit.
        """
        mark = secrets.token_hex(8)
        marked = f"printf '%s\\n' {mark}\n(\n{script}\n)\nprintf '\\n%s %d\\n' {mark} $?"
        answer = self._shell(marked, timeout_s, limit_bytes)
        _, begun, rest = answer.stdout.partition(f"{mark}\n".encode())
        stdout, ended, status = rest.rpartition(f"\n{mark} ".encode())
        if not begun or not ended or not re.fullmatch(rb"[0-9]{1,3}\n", status):
            raise lost(self.name, "its answer ended before it was whole")
        return ShellResult(status=int(status), stdout=stdout, stderr=answer.stderr)

    @final
    def push(self, local: Path, remote: str) -> None:
        """Copies a file there, under exactly that name; half a file may be left when it fails.

        Raises:
            DeviceLost: The connection broke.
            DeviceError: The device did not take it (a full disk, for example).
        """
        self._push(local.resolve(strict=True), _plain(remote))

    @final
    def pull(self, remote: str, local: Path, *, max_bytes: int) -> None:
        """Copies one file from there to exactly ``local``.

        Raises:
            DeviceLost: The connection broke.
            DeviceError: There is no such file, or it is larger than ``max_bytes``.
        """
        self._pull(_plain(remote), local.absolute(), max_bytes)

    @abstractmethod
    def interactive(self, command: Sequence[str]) -> int:
        """Runs a command there on this terminal, or a login shell when there is none; returns its exit status."""

    @abstractmethod
    def _shell(self, script: str, timeout_s: float, limit_bytes: int) -> ShellResult:
        """Runs ``sh -c script``; `shell` reads the marks, so ``status`` may be anything.

        Raises:
            DeviceLost: The connection broke, or no answer after ``timeout_s``.
            DeviceError: Over ``limit_bytes`` on one of the streams.
        """

    @abstractmethod
    def _push(self, local: Path, remote: str) -> None: ...

    @abstractmethod
    def _pull(self, remote: str, local: Path, max_bytes: int) -> None: ...


def lost(name: str, why: str) -> DeviceLost:
    """The error for a device that stopped answering."""
    return DeviceLost(
        f"device {name!r} was lost", why, "reconnect it and run the same command again: finished blocks are kept"
    )


def _plain(remote: str) -> str:
    if not _PLAIN_PATH.fullmatch(remote) or ".." in remote.split("/"):
        raise ValueError(f"not a plain path for a device: {remote!r}")
    return remote
