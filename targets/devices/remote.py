"""A device at the other end of a connection: lock, working folder, verified copies, answers by file."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, final

from targets.devices import scripts
from targets.devices.answers import (
    MAX_ANSWER_BYTES,
    MAX_STDERR_BYTES,
    RawAnswer,
    check_answer,
    printable,
    too_slow,
)
from targets.devices.base import Device, Session
from targets.devices.holder import for_people, has_ended, this_process
from targets.devices.npz import MAX_ARRAYS_BYTES
from targets.devices.transport import lost
from targets.errors import DeviceError, DeviceLost, EdgepressError
from targets.files import megabytes, sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from targets.devices.place import Place
    from targets.devices.transport import ShellResult, Transport

_log = logging.getLogger(__name__)

_GRACE_S: Final = 30.0  # for the way there and back
_LEASE_S: Final = 300.0
_MARGIN_S: Final = 2 * _GRACE_S
_ASK_S: Final = 30.0
_POLL_S: Final = 1.0
_LAST_WAIT_S: Final = 5
_SIGNAL: Final = 128
_live: Final[set[str]] = set()  # tokens of this process's sessions
_MAX_VOIDED: Final = 8  # no device keeps us releasing for ever what it then says is held again
_TOKEN: Final = re.compile(r"[0-9a-f]{16,64}")
_HEADER: Final = re.compile(rb"([0-9]{1,3}) ([0-9]{1,15})\n")


@final
class RemoteDevice(Device):
    """Any device that a `Transport` reaches; each session and each question has a connection of its own."""

    def __init__(self, name: str, connect: Callable[[], Transport], *, kind: str, python: str = "python3") -> None:
        self.name = name
        self.kind = kind
        self._connect = connect
        self._python = python

    @contextlib.contextmanager
    def _open(self, wait_s: float | None) -> Iterator[Session]:
        from targets.devices.place import Place

        transport = self._connect()
        transport.open()
        try:
            place = Place(self.name, transport, self._python)
            if wait_s is None:
                yield _Glance(place)
                return
            with _lease(place, wait_s) as lease:
                yield _RemoteSession(place, lease)
        finally:
            transport.close()


@final
class _Glance(Session):
    """Runs short commands without the lock; has no working folder."""

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self._place = place

    def _put(self, source: Path, name: str) -> None:
        raise AssertionError(f"no working folder for {source} as {name} without the lock")

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        return self._place.call(command, timeout_s)

    def _fetch(self, name: str, target: Path) -> None:
        raise AssertionError(f"no working folder with {name} for {target} without the lock")


@final
class _Lease:
    """The lock on the device, ours until it ends or is lost."""

    def __init__(self, place: Place) -> None:
        self.token = secrets.token_hex(16)
        self._place = place
        self._until_s = 0.0

    def take(self, wait_s: float) -> None:
        """Waits for the device.

        Raises:
            DeviceError: Others used it for all of ``wait_s``.
        """
        end_s, told, voided = time.monotonic() + wait_s, False, 0
        while True:
            answer = self._lock("take", ["--holder", this_process(), "--lease-s", f"{_LEASE_S:g}"])
            if answer.get("taken") is True:
                self._until_s = time.monotonic() + _LEASE_S
                _tell_removed(self._place.name, answer)
                return
            holder, token = str(answer.get("holder", "")), str(answer.get("token", ""))
            is_void = _TOKEN.fullmatch(token) and (has_ended(holder) or _is_abandoned(holder, token))
            if is_void and voided < _MAX_VOIDED:
                voided += 1
                _tell_removed(self._place.name, self._lock("release", [], token))
                continue
            who = printable(for_people(holder))
            if time.monotonic() >= end_s:
                raise DeviceError(
                    f"device {self._place.name!r} is in use",
                    f"{who} has used it for all of the {wait_s:g} s that we waited",
                    "wait until that run is done, or end it",
                )
            if not told:
                _log.warning("waiting for device %r: %s uses it", self._place.name, who)
                told = True
            time.sleep(max(0.0, min(_POLL_S, end_s - time.monotonic())))

    def cover(self, duration_s: float) -> None:
        """Holds the lock for at least so long from now.

        Raises:
            DeviceError: Somebody else has it.
        """
        needed_s = duration_s + _MARGIN_S
        if self._until_s - time.monotonic() >= needed_s:
            return
        lease_s = max(needed_s, _LEASE_S)
        answer = self._lock("renew", ["--lease-s", f"{lease_s:.0f}"])
        if answer.get("renewed") is not True:
            who = printable(for_people(str(answer.get("holder") or "nobody")))
            raise DeviceError(
                f"device {self._place.name!r} was taken over",
                f"we did nothing there for longer than our lease; {who} has it now",
                "run the same command again: finished blocks are kept",
            )
        self._until_s = time.monotonic() + lease_s

    def release(self) -> None:
        """Gives the device back; what cannot be removed now is removed by the next one who takes it."""
        if self._until_s == 0.0:
            return
        if self._place.is_lost:
            _log.warning("device %r keeps this run's files until it is used again", self._place.name)
            return
        try:
            self._lock("release", [])
        except EdgepressError as error:
            _log.warning("device %r keeps this run's files until it is used again: %s", self._place.name, error.why)

    def _lock(self, action: str, words: Sequence[str], token: str = "") -> Mapping[str, Any]:
        nonce = secrets.token_hex(8)
        command = ["lock", action, "--token", token or self.token, *words, "--work", self._place.base]
        answer = self._place.call([*command, "--nonce", nonce, "--limit-s", f"{_ASK_S:g}"], _ASK_S)
        return check_answer(answer, "lock", nonce, device=self._place.name)


@contextlib.contextmanager
def _lease(place: Place, wait_s: float) -> Iterator[_Lease]:
    lease = _Lease(place)
    _live.add(lease.token)
    try:
        lease.take(wait_s)
        yield lease
    finally:
        _live.discard(lease.token)
        lease.release()


@final
class _RemoteSession(Session):
    """A session's folder on the device."""

    def __init__(self, place: Place, lease: _Lease) -> None:
        self.name = place.name
        self._place = place
        self._lease = lease
        self._folder = f"{place.base}/sessions/{lease.token}"
        self._sent: dict[str, str] = {}

    def _put(self, source: Path, name: str) -> None:
        sha256 = sha256_file(source)
        if self._sent.get(name) == sha256:
            return
        self._lease.cover(self._place.push_s(source))
        self._place.send(source, sha256, self._folder, name)
        self._sent[name] = sha256

    def _fetch(self, name: str, target: Path) -> None:
        self._lease.cover(_GRACE_S)
        self._place.transport.pull(f"{self._folder}/{name}", target, max_bytes=MAX_ARRAYS_BYTES)

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        self._lease.cover(timeout_s + _GRACE_S)
        mark = secrets.token_hex(8)
        begin_s = time.monotonic()
        script = scripts.run(self._folder, self._place.argv(command), mark, f"{self._place.base}/timing")
        try:
            done = self._place.shell(script, timeout_s + _GRACE_S, MAX_ANSWER_BYTES + (MAX_STDERR_BYTES << 1))
        except DeviceLost as error:
            done = self._look_again(command, mark, error, begin_s + timeout_s)
        answer = self._answer(done, command[0], time.monotonic() - begin_s)
        if answer.returncode != 0 and b"No space left on device" in answer.stderr:
            raise self._place.full(None)
        return answer

    def _look_again(self, command: Sequence[str], mark: str, error: DeviceLost, end_s: float) -> ShellResult:
        """Connects once more: the program may have gone on without us, and its answer lie there."""
        why = f"{error.why} while it ran {command[0]}"
        _log.warning("device %r: %s; connecting again", self.name, why)
        wait_s = max(_LAST_WAIT_S, round(end_s - time.monotonic()) + _LAST_WAIT_S)
        script = scripts.find(self._folder, self._place.program, mark, wait_s)
        try:
            self._place.reconnect()
            done = self._place.shell(script, wait_s + _GRACE_S, MAX_ANSWER_BYTES + (MAX_STDERR_BYTES << 1))
        except DeviceLost as again:
            raise lost(self.name, why) from again
        if done.status == scripts.GONE:
            raise lost(self.name, f"{why}, and the program has ended without an answer")
        if done.status == scripts.STILL_RUNS:
            raise too_slow(self.name, command[0])
        return done

    def _answer(self, done: ShellResult, command: str, wall_s: float) -> RawAnswer:
        if done.status == scripts.NOT_WRITTEN:
            raise self._place.full(None)
        found = _HEADER.match(done.stdout)
        if done.status != 0 or found is None:
            raise DeviceError(
                f"device {self.name!r} gave no valid answer",
                f"what it sent back for {command} cannot be read (status {done.status})",
                "run the same command again; if it stays so, see `edgepress devices shell` for what is wrong there",
            )
        status, size = int(found[1]), min(int(found[2]), MAX_ANSWER_BYTES + 1)
        rest = done.stdout[found.end() :]
        return RawAnswer(
            returncode=_SIGNAL - status if status > _SIGNAL else status,
            stdout=rest[:size], stderr=rest[size:], wall_s=wall_s,
        )  # fmt: skip


def _is_abandoned(holder: str, token: str) -> bool:
    """Whether a session of this very process holds the device, whose end could not be told to it."""
    return holder == this_process() and token not in _live


def _tell_removed(name: str, answer: Mapping[str, Any]) -> None:
    size_bytes, killed = answer.get("removed_bytes"), answer.get("killed")
    if isinstance(killed, int) and killed > 0:
        _log.warning("device %r: ended %d programs of an interrupted run", name, killed)
    if isinstance(size_bytes, int) and size_bytes > 0:
        _log.warning("device %r: removed %s left by an interrupted run", name, megabytes(size_bytes))
