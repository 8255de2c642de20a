"""Exclusive use of this device: a lease that one host holds, and the cleaning up after a host that vanished.

``work`` is the folder that the device keeps for edgepress::

    lock            flock'ed while a lease is read and written, never for longer
    lease.json      boot_id, token, holder, until_uptime_s
    program/        programs by their hash
    sessions/<token>/   files of the session that has this token
    timing/         kernel times of TensorRT builds; like programs, they outlive a session

A lease of another boot, or one that has run out on the clock since boot, is void: clocks of day do not matter.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .failure import BAD_INPUT, REFUSED, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TOKEN = re.compile(r"[0-9a-f]{16,64}")
_MAX_LEASE_BYTES = 4096
_MAX_HOLDER = 200
_KILL_WAIT_S = 3.0


class _Lease(NamedTuple):
    boot_id: str
    token: str
    holder: str
    until_uptime_s: float


def take(work: Path, *, token: str, holder: str, lease_s: float) -> dict[str, Any]:
    """Takes the device when it is free, and makes ``sessions/<token>``; asking is all that it does when it is not.

    What a former holder left (programs still running, files) is ended and removed first.

    Returns:
        ``taken``; when True: ``removed_bytes`` and ``killed``; else ``holder``, its ``token`` and ``free_in_s``.

    Raises:
        Failure: The token is not one (3), or others can write to the folder (4).
        OSError: The folder cannot be written.
    """
    with _leased(work, token) as lease:
        if lease is not None and lease.token != token:
            free_in_s = lease.until_uptime_s - _uptime_s()
            return {"taken": False, "holder": lease.holder, "token": lease.token, "free_in_s": free_in_s}
        killed = _end_programs(work)
        removed_bytes = _clear(work / "sessions")
        (work / "sessions" / token).mkdir(mode=0o700, parents=True)
        _write(work, _Lease(_boot_id(), token, holder[:_MAX_HOLDER], _uptime_s() + lease_s))
    return {"taken": True, "removed_bytes": removed_bytes, "killed": killed}


def renew(work: Path, *, token: str, lease_s: float) -> dict[str, Any]:
    """Holds the device for ``lease_s`` from now on, if it is still ours: ``renewed``, else who has it (``holder``).

    Raises:
        Failure: The token is not one (3), or others can write to the folder (4).
        OSError: The folder cannot be written.
    """
    with _leased(work, token) as lease:
        if lease is None or lease.token != token:
            return {"renewed": False, "holder": None if lease is None else lease.holder}
        _write(work, lease._replace(until_uptime_s=_uptime_s() + lease_s))
    return {"renewed": True}


def release(work: Path, *, token: str) -> dict[str, Any]:
    """Gives the device back: ends what still runs, removes the session's files.

    Returns:
        ``released``; when True also ``removed_bytes`` and ``killed``; False when it was not ours.

    Raises:
        Failure: The token is not one (3), or others can write to the folder (4).
        OSError: The folder cannot be written.
    """
    with _leased(work, token) as lease:
        if lease is None or lease.token != token:
            return {"released": False}
        killed = _end_programs(work)
        removed_bytes = _clear(work / "sessions")
        (work / "lease.json").unlink()
    return {"released": True, "removed_bytes": removed_bytes, "killed": killed}


@contextmanager
def _leased(work: Path, token: str) -> Iterator[_Lease | None]:
    """The lease that holds now, None where the device is free; nobody else changes it meanwhile."""
    _check(token)
    with _locked(work):
        yield _read(work)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(work)
    descriptor = os.open(str(work / "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(work: Path) -> _Lease | None:
    """The lease that holds now; None when there is none, or it is void, or torn."""
    try:
        with (work / "lease.json").open("rb") as stream:
            found = json.loads(stream.read(_MAX_LEASE_BYTES).decode("utf-8"))
        lease = _Lease(str(found["boot_id"]), str(found["token"]), str(found["holder"]), float(found["until_uptime_s"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return lease if lease.boot_id == _boot_id() and lease.until_uptime_s > _uptime_s() else None


def _write(work: Path, lease: _Lease) -> None:
    temporary = work / "lease.json.part"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(lease._asdict(), stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(work / "lease.json")


def _end_programs(work: Path) -> int:
    """Kills what runs one of our programs inside a session's folder, and waits until it is gone."""
    ours = [pid for pid in _processes() if _is_ours(pid, work)]
    for pid in ours:
        _kill(pid)
    end_s = time.monotonic() + _KILL_WAIT_S
    while any(_is_ours(pid, work) for pid in ours) and time.monotonic() < end_s:
        time.sleep(0.02)
    return len(ours)


def _processes() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit() and int(entry.name) != os.getpid()]


def _is_ours(pid: int, work: Path) -> bool:
    """Whether that process works in a session's folder and its command line names a program of ours."""
    base = os.path.realpath(str(work))
    try:
        folder = os.readlink("/proc/%d/cwd" % pid)  # noqa: PTH115, UP031
        with open("/proc/%d/cmdline" % pid, "rb") as stream:  # noqa: PTH123, UP031
            words = stream.read(1 << 16).split(b"\0")
    except OSError:
        return False
    programs = os.fsencode(os.path.join(base, "program", ""))  # noqa: PTH118
    return folder.startswith(os.path.join(base, "sessions", "")) and any(w.startswith(programs) for w in words)  # noqa: PTH118


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return  # it has ended meanwhile


def _clear(folder: Path) -> int:
    """Removes a folder and all in it; the bytes its files held."""
    if not folder.is_dir() or folder.is_symlink():
        return 0
    sizes = [os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(str(folder)) for name in names]  # noqa: PTH118
    shutil.rmtree(str(folder))
    return sum(sizes)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:  # noqa: PTH123
            return stream.read().strip()
    except OSError:
        return ""


def _uptime_s() -> float:
    """Time since boot, sleep included: what /proc/uptime counts, also where that file is kept from us."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _check_private(work: Path) -> None:
    """Refuses a folder in which another user of this device could put what we then run or remove."""
    status = work.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        why = "it is not a folder of this user that nobody else can write to"
        raise Failure(REFUSED, f"refused to use {work}", why, "remove it there, then run the same command again")


def _check(token: str) -> None:
    if not _TOKEN.fullmatch(token):
        raise Failure(BAD_INPUT, "the token is not valid", f"{token!r} is not 16 to 64 hex digits", "give another one")
