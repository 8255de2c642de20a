"""The journal of a campaign: each finished block is on the disk before the next begins, so that none is lost.

A file holds one line per entry, ``<crc32> <json>``: first the header (what was decided at the start), then one line per
pass over all engines. A line is written whole and fsynced; a torn or damaged line ends the journal, what is before it
counts. It is found by the campaign's identity, which knows contents and never paths.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import zlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self, final

from pipeline.benchmarking.known import private_folder
from targets.files import disk_guard, fsync_folder, sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

LIFETIME: Final = dt.timedelta(hours=24)
_SUFFIX: Final = ".jsonl"
_CRC_DIGITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What was decided at the start of a campaign and holds for all of it.

    Attributes:
        utc_start: When it began, ISO 8601.
        quiet: Whether the device was quiet then.
        twin: Whether the first engine runs against itself as well.
        warmup_s: Warm-up of a process.
        timed_s: Timed loop of a process.
        sentinel: The sentinel's ``repeats``, ``wall_ns`` and ``cpu_ns`` on this device.
        temp_c: The device's temperature then; None where it tells none.
        waited_s: How long it was waited for a quiet device.
    """

    utc_start: str
    quiet: bool
    twin: bool
    warmup_s: float
    timed_s: float
    sentinel: Mapping[str, int]
    temp_c: float | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over all engines: a block, or an attempt at one that is repeated.

    Attributes:
        block: The block's number.
        attempt: 0 for the first one at this block.
        order: Names in the order they ran.
        rows: One row of ``runs`` each, ``raw`` included.
        discarded: Why it is repeated (``sentinel``, ``warmup``) or does not count (``budget``); None when it counts.
        warmup_s: The warm-up that it used.
        length_s: What it took.
        elapsed_s: Time of the campaign at its end.
        waited_s: How long it was waited for a cool device before it.
    """

    block: int
    attempt: int
    order: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    discarded: str | None
    warmup_s: float
    length_s: float
    elapsed_s: float
    waited_s: float = 0.0


def identity(parts: Mapping[str, Any]) -> str:
    """The campaign's identity: a hash of everything that makes it this one (contents and options, never paths)."""
    return sha256_bytes(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())


@final
class Journal:
    """The file of one campaign, open for appending; `open_journal` makes it."""

    def __init__(self, path: Path, descriptor: int, header: Header, passes: Sequence[Pass]) -> None:
        self._path, self._descriptor = path, descriptor
        self.header, self.passes = header, tuple(passes)

    def append(self, done: Pass) -> None:
        """Puts a finished pass on the disk.

        Raises:
            EnvironmentFailure: The disk refused.
        """
        _write(self._descriptor, done, self._path)

    def remove(self) -> None:
        """Ends the journal of a complete campaign."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def recall(state: Path, name: str, now: dt.datetime) -> tuple[Header, tuple[Pass, ...]] | None:
    """What is kept of the campaign with this identity; None where no block is, or it is over 24 hours old.

    Journals of any campaign that are over 24 hours old are removed.
    """
    folder = state / "campaigns"
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
        if _expired(path, now):
            path.unlink(missing_ok=True)
    entries = list(_entries(folder / f"{name}{_SUFFIX}"))
    try:
        header, passes = Header(**entries[0]), tuple(_parse(entry) for entry in entries[1:])
    except (IndexError, TypeError, KeyError):
        return None
    return (header, passes) if any(item.discarded is None for item in passes) else None


def open_journal(state: Path, name: str, header: Header, passes: Sequence[Pass]) -> Journal:
    """The journal of a campaign that starts, or goes on after ``passes``; what was torn or damaged is gone.

    Raises:
        EnvironmentFailure: The disk refused.
    """
    folder = private_folder(private_folder(state) / "campaigns")
    path, fresh = folder / f"{name}{_SUFFIX}", folder / f".{os.urandom(8).hex()}.tmp"
    with disk_guard(f"writing the journal {path}", path=folder):
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _write(descriptor, header, path)
        for done in passes:
            _write(descriptor, done, path)
        with disk_guard(f"writing the journal {path}", path=folder):
            fresh.rename(path)
            fsync_folder(folder)
    except BaseException:
        os.close(descriptor)
        fresh.unlink(missing_ok=True)
        raise
    return Journal(path, descriptor, header, passes)


def _write(descriptor: int, entry: Header | Pass, path: Path) -> None:
    plain = {field.name: getattr(entry, field.name) for field in fields(entry)}
    body = json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()
    line = b"%08x %s\n" % (zlib.crc32(body), body)
    with disk_guard(f"writing the journal {path}", path=path.parent, size_bytes=len(line)):
        view = memoryview(line)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The sound entries from the start of the file to the first that is not."""
    try:
        with path.open("rb") as file:
            for line in file:
                entry = _sound(line)
                if entry is None:
                    return
                yield entry
    except OSError:
        return


def _sound(line: bytes) -> dict[str, Any] | None:
    checksum, body = line[: _CRC_DIGITS + 1], line[_CRC_DIGITS + 1 : -1]
    if not line.endswith(b"\n") or checksum != b"%08x " % zlib.crc32(body):
        return None
    try:
        entry: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _parse(entry: Mapping[str, Any]) -> Pass:
    return Pass(**{**entry, "order": tuple(entry["order"]), "rows": tuple(entry["rows"])})


def _expired(path: Path, now: dt.datetime) -> bool:
    """Whether a journal is too old, lies in the future (a clock was wrong), or has no sound header."""
    header = next(_entries(path), None)
    try:
        age = now - dt.datetime.fromisoformat((header or {})["utc_start"])
    except (KeyError, TypeError, ValueError):
        return True
    return not dt.timedelta(0) <= age <= LIFETIME
