"""A program below its supervisor: started with little around it, waited for, and ended with all that came from it."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.child import UNLIMITED
from targets.errors import EnvironmentFailure
from targets.files import disk_guard, megabytes
from targets.limits import ChildResult, Limits, judge, out_of_time
from targets.orphans import kill_marked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from targets.telling import Listener

_SUPERVISOR: Final = Path(__file__).with_name("child.py")
_REPORT_WORDS: Final = 2
_GRACE_S: Final = 1.0
_SWEEP_S: Final = 1.8
_LONGEST_WAIT_S: Final = 3600.0  # what the kernel takes at once ends below a month
_MARK: Final = "EDGEPRESS_CHILD"
_CHUNK_BYTES: Final = 1 << 16
_INHERITED: Final = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "EDGEPRESS_TIMING_CACHE",
)  # fmt: skip


def inherited() -> dict[str, str]:
    """The part of our environment that a child gets."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def environment(env: Mapping[str, str], mark: str) -> dict[str, str]:
    """All variables of a child: the inherited ones, ``env``, and its mark."""
    return {**inherited(), "ORT_DISABLE_TELEMETRY": "1", **env, _MARK: mark}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What we hold of a supervisor that was started.

    Attributes:
        pid: Its process, group and session; not reaped before we ask for it, so nobody else can have the number.
        stdout: What it and its child write there.
        stderr: What it and its child write there.
        report: Where it tells how its child ended.
    """

    pid: int
    stdout: int
    stderr: int
    report: int


@contextlib.contextmanager
def pipes() -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Three pipes for stdout, stderr and report: ends to read, which stay open, and to write, which are closed.

    Whoever starts a supervisor closes its ends of them; else one that was killed would leave a pipe that never ends.
    """
    reading: list[int] = []
    writing: list[int] = []
    try:
        for _ in range(3):
            ends = os.pipe()
            reading.append(ends[0])
            writing.append(ends[1])
        yield (reading[0], reading[1], reading[2]), (writing[0], writing[1], writing[2])
    except BaseException:
        for descriptor in reading:
            os.close(descriptor)
        raise
    finally:
        for descriptor in writing:
            os.close(descriptor)


def readable(descriptor: int, patience_s: float) -> bool:
    """Whether there is something to read, or an end, within that time; for any number of open files."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(patience_s * 1000))


def start(
    argv: Sequence[str],
    *,
    what: str,
    limits: Limits,
    cwd: Path,
    env: Mapping[str, str],
    mark: str,
    pass_fds: Sequence[int] = (),
) -> Supervised:
    """Starts a program; `Supervised.wait` or `Supervised.end` must follow.

    Args:
        argv: Program and arguments.
        what: What it does, for messages.
        limits: Limits of memory and files; that of time is for `Supervised.wait`.
        cwd: Working folder.
        env: Variables it gets on top of the inherited ones.
        mark: A name that nothing else on this machine has; its processes are found by it should the supervisor die.
        pass_fds: Descriptors that it inherits.

    Raises:
        EnvironmentFailure: It cannot be started.
    """
    start_s = time.monotonic()
    with disk_guard(f"starting {what}"), pipes() as ((out, err, report), (out_end, err_end, report_end)):
        supervise = [
            sys.executable, "-I", "-S", str(_SUPERVISOR), "supervise", str(report_end), str(os.getpid()),
            str(limits.memory_bytes or UNLIMITED), str(limits.file_bytes or UNLIMITED),
        ]  # fmt: skip
        process = subprocess.Popen(
            [*supervise, *argv], stdin=subprocess.DEVNULL, stdout=out_end, stderr=err_end, cwd=cwd,
            env=environment(env, mark), start_new_session=True, pass_fds=[report_end, *pass_fds],
        )  # fmt: skip
        ends = Ends(pid=process.pid, stdout=out, stderr=err, report=report)
        return Supervised(ends, reap=process.wait, marks=(mark,), start_s=start_s)


@final
class Supervised:
    """A supervisor with a program below it.

    Args:
        ends: What we hold of it.
        reap: Waits for it and gives its exit status, minus the signal that ended it.
        marks: What its processes are found by should it die; see `start`.
        start_s: When it began, by the monotonic clock.

    Raises:
        OSError: It cannot be watched; it is ended.
    """

    def __init__(self, ends: Ends, *, reap: Callable[[], int], marks: tuple[str, ...], start_s: float) -> None:
        self.pid = ends.pid
        self._ends, self._reap, self._marks, self._start_s = ends, reap, marks, start_s
        try:
            self._ended = os.pidfd_open(ends.pid)
        except BaseException:
            os.kill(ends.pid, signal.SIGKILL)  # not reaped yet; what it started dies with it
            reap()
            raise

    def wait(self, limits: Limits, what: str, *, stdout_limit_bytes: int, told: Listener | None = None) -> ChildResult:
        """Waits for its end; whatever comes in between, all that came from it is ended.

        Args:
            limits: What it may use.
            what: What it does, for messages.
            stdout_limit_bytes: The most it may write to each of stdout and stderr.
            told: Hears what it tells.

        Raises:
            EnvironmentFailure: As `targets.process.run_limited`.
        """
        try:
            try:
                stdout, stderr = self._collect(limits, what, stdout_limit_bytes, told)
            finally:
                status = self._end_group()
            os.set_blocking(self._ends.report, False)
            ending = _words(self._ends.report)
        finally:
            self._close()
        wall_s = time.monotonic() - self._start_s
        if len(ending) != _REPORT_WORDS:
            for mark in self._marks:
                kill_marked(f"{_MARK}={mark}")
            raise _without_report(what, status, stderr)
        child_status, peak_kb = map(int, ending)
        result = ChildResult(
            returncode=os.waitstatus_to_exitcode(child_status), stdout=stdout, stderr=stderr, wall_s=wall_s,
            peak_rss_bytes=peak_kb * 1024,
        )  # fmt: skip
        judge(result, limits, what)
        return result

    def end(self) -> None:
        """Ends it, for whom nobody waits any more."""
        try:
            self._end_group()
        finally:
            self._close()

    def has_ended(self) -> bool:
        """Whether it has; it is not reaped yet."""
        return readable(self._ended, 0)

    def _close(self) -> None:
        for descriptor in (self._ended, self._ends.stdout, self._ends.stderr, self._ends.report):
            os.close(descriptor)

    def _collect(self, limits: Limits, what: str, limit_bytes: int, told: Listener | None) -> tuple[bytes, bytes]:
        """Reads outputs and what is told until the supervisor (and not whoever else holds the outputs) has ended."""
        outputs = {self._ends.stdout: bytearray(), self._ends.stderr: bytearray()}
        with selectors.DefaultSelector() as selector:
            selector.register(self._ended, selectors.EVENT_READ)
            for descriptor in outputs:
                selector.register(descriptor, selectors.EVENT_READ)
                os.set_blocking(descriptor, False)
            if told is not None:
                selector.register(told, selectors.EVENT_READ)
            while True:
                left_s = self._start_s + limits.timeout_s - time.monotonic()
                ready = selector.select(min(max(left_s, 0), _LONGEST_WAIT_S))
                if not ready and left_s <= _LONGEST_WAIT_S:
                    raise out_of_time(limits, what)
                if told is not None:
                    told.take()
                for descriptor, output in outputs.items():
                    if _drain(descriptor, output, limit_bytes, what) and descriptor in selector.get_map():
                        selector.unregister(descriptor)
                if any(key.fd == self._ended for key, _ in ready):
                    stdout, stderr = outputs.values()
                    return bytes(stdout), bytes(stderr)

    def _end_group(self) -> int:
        """Asks the group to end, gives it a second, has the supervisor kill all that is left, and reaps it."""
        try:
            if not self.has_ended():
                _signal_group(self.pid, signal.SIGTERM)
                readable(self._ended, _GRACE_S)
            if not self.has_ended():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._ended, signal.SIGUSR1)  # it also finds those who left the group
                readable(self._ended, _SWEEP_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # raised where its parent died, and others reaped it
                signal.pidfd_send_signal(self._ended, signal.SIGKILL)  # works on what is not reaped only,
                os.killpg(self.pid, signal.SIGKILL)  # so that nobody else can have this number
            status = self._reap()
        return status


def _without_report(what: str, status: int, stderr: bytes) -> Exception:
    if status == -signal.SIGKILL:
        return EnvironmentFailure(
            f"{what} was killed",
            "signal 9 ended it from outside, as the kernel does when memory runs out",
            "see `dmesg` for 'out of memory'; free memory and run it again",
        )
    return RuntimeError(f"the supervisor of {what} failed ({status})\n{stderr.decode(errors='replace')}")


def _words(descriptor: int) -> list[bytes]:
    """The supervisor's words, none where it was killed (a process it left behind may hold the pipe open)."""
    try:
        return os.read(descriptor, 64).split()
    except BlockingIOError:
        return []


def _drain(descriptor: int, output: bytearray, limit_bytes: int, what: str) -> bool:
    """Reads what is there without waiting; True at the end of the stream."""
    while True:
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            return True
        output += data
        if len(output) > limit_bytes:
            raise EnvironmentFailure(
                f"{what} was stopped",
                f"it wrote over {megabytes(limit_bytes)} of output, which is the limit",
                "make it write less, or write to a file",
            )


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
