"""A program below its supervisor: started with little around it, waited for, and ended with all that came from it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.child import UNLIMITED
from targets.errors import EnvironmentFailure
from targets.files import disk_guard, megabytes
from targets.limits import ChildResult, Limits, judge, out_of_time
from targets.orphans import kill_marked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@final
class Supervised:
    """A program that runs, in a session and process group of its own; `wait` or `end` must follow.

    Args:
        argv: Program and arguments.
        what: What it does, for messages.
        limits: Limits of memory and files; that of time is for `wait`.
        cwd: Working folder.
        env: Variables it gets on top of the inherited ones.
        mark: A name that nothing else on this machine has; its processes are found by it should the supervisor die.
        pass_fds: Descriptors that it inherits.

    Raises:
        EnvironmentFailure: It cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        what: str,
        limits: Limits,
        cwd: Path,
        env: Mapping[str, str],
        mark: str,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._mark = f"{_MARK}={mark}"
        self._start_s = time.monotonic()
        self._report, report_end = os.pipe()
        supervise = [
            sys.executable, "-I", "-S", str(_SUPERVISOR), "supervise", str(report_end), str(os.getpid()),
            str(limits.memory_bytes or UNLIMITED), str(limits.file_bytes or UNLIMITED),
        ]  # fmt: skip
        try:
            with disk_guard(f"starting {what}"):
                self._process = subprocess.Popen(
                    [*supervise, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    bufsize=0, cwd=cwd, env={**inherited(), "ORT_DISABLE_TELEMETRY": "1", **env, _MARK: mark},
                    start_new_session=True, pass_fds=[report_end, *pass_fds],
                )  # fmt: skip
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(report_end)  # ours; else a supervisor that was killed would leave a pipe that never ends

    def begin_now(self) -> None:
        """Counts time from now on: what it did before was no work of ours."""
        self._start_s = time.monotonic()

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
            with self._process:
                try:
                    stdout, stderr = self._collect(limits, what, stdout_limit_bytes, told)
                finally:
                    self._end_group()
            os.set_blocking(self._report, False)
            ending = _words(self._report)
        finally:
            os.close(self._report)
        wall_s = time.monotonic() - self._start_s
        if len(ending) != _REPORT_WORDS:
            kill_marked(self._mark)
            raise self._without_report(what, stderr)
        status, peak_kb = map(int, ending)
        result = ChildResult(
            returncode=os.waitstatus_to_exitcode(status), stdout=stdout, stderr=stderr, wall_s=wall_s,
            peak_rss_bytes=peak_kb * 1024,
        )  # fmt: skip
        judge(result, limits, what)
        return result

    def end(self) -> None:
        """Ends it, for whom nobody waits any more."""
        try:
            with self._process:
                self._end_group()
        finally:
            os.close(self._report)

    def _without_report(self, what: str, stderr: bytes) -> Exception:
        if self._process.returncode == -signal.SIGKILL:
            return EnvironmentFailure(
                f"{what} was killed", "signal 9 ended it from outside, as the kernel does when memory runs out",
                "see `dmesg` for 'out of memory'; free memory and run it again",
            )  # fmt: skip
        words = stderr.decode(errors="replace")
        return RuntimeError(f"the supervisor of {what} failed ({self._process.returncode})\n{words}")

    def _collect(self, limits: Limits, what: str, limit_bytes: int, told: Listener | None) -> tuple[bytes, bytes]:
        """Reads outputs and what is told until the supervisor (and not whoever else holds the outputs) has ended."""
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        ended = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in (ended, *outputs):
                    selector.register(descriptor, selectors.EVENT_READ)
                    os.set_blocking(descriptor, descriptor == ended)
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
                    if any(key.fd == ended for key, _ in ready):
                        stdout, stderr = outputs.values()
                        return bytes(stdout), bytes(stderr)
        finally:
            os.close(ended)

    def _end_group(self) -> None:
        """Asks the group to end, gives it a second, has the supervisor kill all that is left, and reaps it."""
        process = self._process
        try:
            if not _has_ended(process.pid):
                _signal_group(process.pid, signal.SIGTERM)
                _wait_for(process.pid, _GRACE_S)
            if not _has_ended(process.pid):
                process.send_signal(signal.SIGUSR1)  # it also finds those who left the group
                _wait_for(process.pid, _SWEEP_S)
        finally:
            _signal_group(process.pid, signal.SIGKILL)  # not reaped yet, so nobody else can have this number
            process.wait()


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


def _wait_for(pid: int, patience_s: float) -> None:
    end_s = time.monotonic() + patience_s
    while not _has_ended(pid) and time.monotonic() < end_s:
        time.sleep(0.01)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
