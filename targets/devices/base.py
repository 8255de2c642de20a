"""What every device does: say what it is, and lend itself to one user at a time, who puts files and runs the program.

A new kind of device is one `Device` with ``_open`` and one `Session` with ``_put``, ``_run`` and ``_fetch``; all checks
of what goes there and of what comes back are here and in `targets.devices.answers`.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, final

from targets.devices.answers import (
    MAX_ANSWER_BYTES,
    DeviceFacts,
    DeviceResult,
    RawAnswer,
    check_answer,
    check_arrays,
    facts_of,
    printable,
)
from targets.errors import InputError
from targets.files import disk_guard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = [
    "MAX_ANSWER_BYTES",
    "Device",
    "DeviceFacts",
    "DeviceResult",
    "RawAnswer",
    "Session",
    "check_answer",
    "printable",
]

RESULT_FILE: Final = "result.npz"
_FACTS_TIMEOUT_S: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,199}")


class Session(ABC):
    """Exclusive use of a device, with a fresh working folder there; made by `Device.session`."""

    name: str = "local"
    """The device's name, for messages."""

    @final
    def put(self, source: Path, name: str) -> None:
        """Copies a file or a folder to the relative path ``name`` in the working folder.

        Each file appears there whole or not at all; one whose content is already there is not sent again.

        Raises:
            InputError: There is no such file, or something else than files and folders.
            EnvironmentFailure: The device's disk is full.
            DeviceError: The file did not arrive as it was sent.
            DeviceLost: The device does not answer any more.
        """
        for file, place in _files(source, name):
            self._put(file, place)

    @final
    def run(self, command: Sequence[str], *, timeout_s: float, fetch: Path | None = None) -> DeviceResult:
        """Runs the device program once, in a fresh process.

        Args:
            command: The command and its arguments, for example ``["measure", "engines/0", "--samples", "x.npz"]``;
                paths are relative to the working folder.
            timeout_s: The process is ended after this time.
            fetch: Where to put the file ``result.npz`` that the command wrote; checked to hold plain arrays only.

        Raises:
            InputError, RefusedError, EnvironmentFailure: What the device program reported.
            DeviceError: The same, or it is too slow, or its answer is not valid.
            DeviceLost: The device does not answer any more.
        """
        nonce = secrets.token_hex(8)
        answer = self._run([*command, "--nonce", nonce, "--limit-s", f"{timeout_s:.3f}"], timeout_s)
        result = check_answer(answer, command[0], nonce, device=self.name)
        if fetch is not None:
            self._take(fetch)
        return DeviceResult(result=result, wall_s=answer.wall_s)

    @final
    def facts(self) -> DeviceFacts:
        """What this device is.

        Raises:
            DeviceError: It does not answer, or answers garbage.
        """
        return facts_of(self.run(["facts"], timeout_s=_FACTS_TIMEOUT_S))

    def _take(self, target: Path) -> None:
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            self._fetch(RESULT_FILE, temporary)
            check_arrays(temporary, device=self.name)
            with disk_guard(f"writing {target}", path=target.parent):
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @abstractmethod
    def _put(self, source: Path, name: str) -> None:
        """Copies one regular file; folders of ``name`` are made."""

    @abstractmethod
    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer: ...

    @abstractmethod
    def _fetch(self, name: str, target: Path) -> None:
        """Copies one file from the working folder; at most `npz.MAX_ARRAYS_BYTES`."""


class Device(ABC):
    """A place where the device program runs."""

    name: str
    """``local``, or its name in the registry."""
    kind: str
    """``local``, ``ssh`` or ``adb``."""

    @final
    def facts(self) -> DeviceFacts:
        """What this device is; needs no exclusive use.

        Raises:
            RefusedError: It is not the device that was registered.
            DeviceError: It does not answer, or answers garbage.
        """
        with self._open(None) as session:
            return session.facts()

    @final
    def session(self, *, wait_s: float = 600.0) -> AbstractContextManager[Session]:
        """Exclusive use of the device, until the context ends: nobody else measures there meanwhile.

        Args:
            wait_s: How long to wait for others who use it.

        Raises:
            RefusedError: It is not the device that was registered.
            DeviceError: It cannot be reached, or others used it for all of ``wait_s``; says who.
        """
        return self._open(wait_s)

    @abstractmethod
    def _open(self, wait_s: float | None) -> AbstractContextManager[Session]:
        """Connects, and takes the device's lock and a fresh working folder, both given back at the end.

        None takes no lock and no folder: such a session only runs commands that need no files.
        """


def _files(source: Path, name: str) -> Iterator[tuple[Path, str]]:
    """The files to send with their names there, sorted; a folder's own names must be plain, too."""
    if source.is_symlink() and not source.exists():
        raise _not_sendable(source, "it is a link to nothing")
    if not all(_NAME.fullmatch(part) for part in name.split("/")):
        raise _not_sendable(source, f"{name!r} is not a plain relative name")
    if source.is_file():
        yield source, name
        return
    if not source.is_dir():
        raise _not_sendable(source, "there is no such file or folder")
    for entry in sorted(source.iterdir()):
        if entry.is_symlink() and entry.is_dir():
            raise _not_sendable(entry, "it is a link to a folder")
        yield from _files(entry, f"{name}/{entry.name}")


def _not_sendable(source: Path, why: str) -> InputError:
    return InputError(
        f"cannot send {str(source)!r} to a device",
        why,
        "give files and folders with plain names: letters, digits and ._+-",
    )
