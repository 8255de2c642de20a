"""A study's journal in a file: a line an event, whole or absent, whoever dies in the midst of writing one.

Optuna's own file backend is not used: a writer that dies leaves it a half line, to which the next one appends, and from
then on nobody can read it; and a lock file that stays for half a minute.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final, final

from optuna.storages.journal import BaseJournalBackend

from targets.errors import EnvironmentFailure, InputError
from targets.files import disk_guard, fsync_folder, sha256_bytes

if TYPE_CHECKING:
    from pathlib import Path

_SEAL: Final = "sha256"
_SEAL_DIGITS: Final = 16
_BLOCK_BYTES: Final = 1 << 16
_BEGIN: Final = b'{"op_code":'


@final
class JournalFile(BaseJournalBackend):
    """Appends and reads events; any number of processes may do so at once.

    Each line is a JSON object that optuna's tools can read, sealed with a hash of its own; a line without a seal is of
    such a tool, and is believed. What an interrupted writer left at the end is cut off by the next one.

    Args:
        path: The file; made when missing.

    Raises:
        InputError: It is no plain file.
        EnvironmentFailure: It cannot be written, or its filesystem has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = {0: 0}  # by number of the line
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened(fcntl.LOCK_EX) as file:
                if not _is_study(file.readline()):
                    raise InputError(
                        f"{path} is no study", "it does not begin as the journal of one does; it stays as it is",
                        "give --storage a place of its own, or leave it out",
                    )  # fmt: skip
                file.truncate(_sound_end(file))
                os.fsync(file.fileno())
                fsync_folder(path.parent)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes events behind the last whole line, all on the disk when this returns."""
        data = b"".join(_sealed(log) for log in logs)
        with self._writing(len(data)), self._opened(fcntl.LOCK_EX) as file:
            end = _sound_end(file)
            file.truncate(end)
            try:
                file.seek(end)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):  # else the next writer cuts it off
                    os.ftruncate(file.fileno(), end)
                raise

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Events from a number on, up to the last whole line.

        Raises:
            InputError: A line in the midst is damaged.
        """
        number = max(known for known in self._offsets if known <= log_number_from)
        with disk_guard(f"reading the study {self._path}"), self._opened(fcntl.LOCK_SH) as file:
            file.seek(self._offsets[number])
            lines = file.readlines()
        for place, line in enumerate(lines, start=1):
            event = _event(line)
            if event is None:
                if place == len(lines):
                    return  # whoever wrote it died over it
                raise damaged(self._path, f"line {number + 1} is not what was written")
            number += 1
            self._offsets[number] = self._offsets[number - 1] + len(line)
            if number > log_number_from:
                yield event

    def _writing(self, size_bytes: int = 0) -> contextlib.AbstractContextManager[None]:
        return disk_guard(f"writing the study {self._path}", path=self._path.parent, size_bytes=size_bytes)

    @contextlib.contextmanager
    def _opened(self, lock: int) -> Iterator[BinaryIO]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "rb+") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(
                    f"{self._path} is no study", "it is no plain file", "give --storage the path of a file"
                )
            _lock(descriptor, lock, self._path)
            yield file


def damaged(path: Path, why: str) -> InputError:
    """The error of a study that cannot be read."""
    return InputError(
        f"the study {path} is damaged", why,
        "move that file away and search again: whatever the cache holds is not measured again",
    )  # fmt: skip


def _lock(descriptor: int, kind: int, path: Path) -> None:
    """Waits for the lock; the kernel frees it with the descriptor, however its process ends."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise
        raise EnvironmentFailure(
            f"cannot lock the study {path}", "its filesystem has no working file locks",
            "choose a place on another disk with --storage",
        ) from error  # fmt: skip


def _is_study(first: bytes) -> bool:
    """Whether a file that begins so may be cut and written to: it is none that somebody named by mistake."""
    if first.endswith(b"\n"):
        return "op_code" in (_event(first) or {})
    return not first or first.startswith(_BEGIN) or _BEGIN.startswith(first)


def _sealed(log: dict[str, Any]) -> bytes:
    body: dict[str, Any] = json.loads(json.dumps(log))
    return json.dumps({**body, _SEAL: _seal(body)}, separators=(",", ":")).encode() + b"\n"


def _seal(body: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(body, separators=(",", ":"), sort_keys=True).encode())[:_SEAL_DIGITS]


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of a whole line; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        event: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    seal = event.pop(_SEAL, None)
    return event if seal is None or seal == _seal(event) else None


def _sound_end(file: BinaryIO) -> int:
    """Where the last sound line ends; what a death or a power loss leaves behind it is one line at most."""
    end = start = file.seek(0, os.SEEK_END)
    tail = b""
    while start and b"\n" not in tail[:-1]:
        step = min(_BLOCK_BYTES, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
    begin = tail.rfind(b"\n", 0, -1) + 1
    return end if not tail or _event(tail[begin:]) is not None else start + begin
