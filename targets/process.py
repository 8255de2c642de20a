"""Limited child processes: everything risky runs in one, with limits on time, memory and files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from targets.child import LIMIT_FAILED, NOT_STARTED, UNLIMITED
from targets.errors import EnvironmentFailure, error_from_json
from targets.files import disk_guard, megabytes, remove_tree
from targets.memory import is_out_of_memory
from targets.orphans import kill_marked
from targets.telling import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_log = logging.getLogger(__name__)

_SUPERVISOR: Final = Path(__file__).with_name("child.py")
_REPORT_WORDS: Final = 2
_GRACE_S: Final = 1.0
_LEAST_MEMORY_BYTES: Final = 16 << 30  # libraries reserve more addresses than they use
_SWEEP_S: Final = 1.8
_LONGEST_WAIT_S: Final = 3600.0  # what the kernel takes at once ends below a month
_MARK: Final = "EDGEPRESS_CHILD"
_CHUNK_BYTES: Final = 1 << 16
_MAX_RESPONSE_BYTES: Final = 256 << 20
_STDOUT_LIMIT_BYTES: Final = 16 << 20
_NO_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({})
_INHERITED: Final = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "EDGEPRESS_TIMING_CACHE",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may use.

    Attributes:
        timeout_s: Wall-clock time; infinite for no limit.
        memory_bytes: Address space (RLIMIT_AS) of each process in it; None for no limit.
        file_bytes: Size of each file it writes (RLIMIT_FSIZE); None for no limit.
    """

    timeout_s: float
    memory_bytes: int | None = None
    file_bytes: int | None = None


def untrusted(timeout_s: float) -> Limits:
    """Limits for reading a stranger's file: no more memory than this machine has, so that it stays usable."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Limits(timeout_s=timeout_s, memory_bytes=max(memory_bytes, _LEAST_MEMORY_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildResult:
    """How a child ended.

    Attributes:
        returncode: Its exit status; minus the signal number when a signal ended it.
        stdout: All it wrote there.
        stderr: All it wrote there.
        wall_s: From start to end, the start of the supervisor (about 20 ms) included.
        peak_rss_bytes: Its largest resident memory, children it waited for included.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    wall_s: float
    peak_rss_bytes: int


def run_limited(
    argv: Sequence[str],
    *,
    limits: Limits,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] = _NO_ENVIRONMENT,
    stdout_limit_bytes: int = _STDOUT_LIMIT_BYTES,
) -> ChildResult:
    """Runs a program in a session and process group of its own and waits for it.

    It has no standard input, a small allowed part of our environment plus ``env``, and private empty folders as home,
    TMPDIR and (unless ``cwd`` is given) working folder, removed at the end. When it ends, or time is up, or an
    exception (Ctrl-C too) comes here, all that came from it is ended, in whatever session it hides; when we die, too.

    Args:
        argv: Program (found on PATH) and arguments.
        limits: What it may use.
        what: What it does, as a noun, for messages: ``calibration of 'model.onnx'``.
        cwd: Working folder.
        env: Variables it gets on top of the allowed ones.
        stdout_limit_bytes: The most it may write to each of stdout and stderr.

    Raises:
        EnvironmentFailure: Out of time, out of memory, too much output, a too large file, or it cannot be started.
            Any other exit status is the caller's to judge.
    """
    with _private_folder() as folder:
        return _run(argv, limits, what, cwd, env, stdout_limit_bytes, folder)


def call_limited(
    function: str,
    request: Mapping[str, object],
    *,
    limits: Limits,
    what: str,
    hear: Callable[[Mapping[str, Any]], None] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] = _NO_ENVIRONMENT,
) -> dict[str, object]:
    """Calls ``package.module:function`` (dict in, dict out) in a limited child; JSON files carry both ways.

    The child is Python with ``-I``: neither the working folder nor PYTHONPATH is searched for modules.

    Args:
        function: What to call.
        request: What it gets; with ``hear`` also ``tell``, the path for a `targets.telling.Teller`.
        limits: What it may use.
        what: What it does, as a noun, for messages.
        hear: Called with what the function tells while it works.
        cwd: Working folder; an empty one of its own by default.
        env: Variables it gets on top of the allowed ones.

    Raises:
        EdgepressError: As raised by the function, or EnvironmentFailure as by `run_limited`.
        EnvironmentFailure: A signal ended it: a native library crashed.
        RuntimeError: The function failed in any other way, which is our own bug; holds the child's traceback.
    """
    with _private_folder() as folder, contextlib.ExitStack() as stack:
        source, answer, pipe = folder / "request.json", folder / "response.json", folder / "told"
        told = None if hear is None else stack.enter_context(Listener(pipe, hear))
        sent = {**request} if told is None else {**request, "tell": str(pipe)}
        with disk_guard(f"writing the request for {what}", path=folder):
            source.write_text(json.dumps(sent, allow_nan=False), encoding="utf-8")
        argv = [sys.executable, "-I", "-m", "targets.child", "call", function, str(source), str(answer)]
        result = _run(argv, limits, what, cwd, env, _STDOUT_LIMIT_BYTES, folder, told)
        stderr = result.stderr.decode(errors="replace")
        _log.debug("%s: exit %d, stderr: %s", what, result.returncode, stderr)
        if result.returncode < 0 and not stderr.startswith("Traceback"):
            raise _crashed(what, signal.Signals(-result.returncode).name)
        if result.returncode != 0 or not answer.is_file():
            raise RuntimeError(f"{what} ended with exit status {result.returncode} in {function}\n{stderr}")
        return _read_answer(answer, function)


def _crashed(what: str, name: str) -> EnvironmentFailure:
    """A signal ended the child: code of a native library failed, which Python cannot catch."""
    return EnvironmentFailure(
        f"{what} crashed ({name})",
        "the code that failed is a native library's, most likely that of the engine's runtime",
        "leave that engine out of [build] candidates, or install another version of its runtime",
    )


def _read_answer(path: Path, function: str) -> dict[str, object]:
    if path.stat().st_size > _MAX_RESPONSE_BYTES:
        raise RuntimeError(f"{function} answered with over {megabytes(_MAX_RESPONSE_BYTES)}; large results go to files")
    answer = json.loads(path.read_bytes())
    if "error" in answer:
        raise error_from_json(answer["error"])
    result = answer["result"]
    if not isinstance(result, dict):
        raise TypeError(f"{function} must return a dict, not {type(result).__name__}")
    return result


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    import tempfile  # heavy: only those who start a child pay for it

    with disk_guard("making a private folder for a child process"):
        folder = Path(tempfile.mkdtemp(prefix="edgepress-"))
        for name in ("cwd", "home", "tmp"):
            (folder / name).mkdir()
    try:
        yield folder
    finally:
        with disk_guard(f"removing the private folder {folder}"):
            remove_tree(folder)


def _environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    allowed = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    private = {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home"), "ORT_DISABLE_TELEMETRY": "1"}
    return {**allowed, **private, **env, _MARK: folder.name}


def _run(
    argv: Sequence[str],
    limits: Limits,
    what: str,
    cwd: Path | None,
    env: Mapping[str, str],
    stdout_limit_bytes: int,
    folder: Path,
    told: Listener | None = None,
) -> ChildResult:
    report, report_end = os.pipe()
    argv = [
        sys.executable, "-I", "-S", str(_SUPERVISOR), "supervise", str(report_end), str(os.getpid()),
        str(limits.memory_bytes or UNLIMITED), str(limits.file_bytes or UNLIMITED), *argv,
    ]  # fmt: skip
    start_s = time.monotonic()
    try:
        try:
            with disk_guard(f"starting {what}"):
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                    cwd=cwd or folder / "cwd", env=_environment(folder, env), start_new_session=True,
                    pass_fds=[report_end],
                )  # fmt: skip
        finally:
            os.close(report_end)  # ours; else a supervisor that was killed would leave a pipe that never ends
        with process:
            try:
                stdout, stderr = _collect(process, start_s, limits, what, stdout_limit_bytes, told)
            finally:
                _end_group(process)
        os.set_blocking(report, False)
        ending = _report(report)
    finally:
        os.close(report)
    wall_s = time.monotonic() - start_s
    if len(ending) != _REPORT_WORDS:
        kill_marked(f"{_MARK}={folder.name}")
    if len(ending) != _REPORT_WORDS and process.returncode == -signal.SIGKILL:
        raise EnvironmentFailure(
            f"{what} was killed", "signal 9 ended it from outside, as the kernel does when memory runs out",
            "see `dmesg` for 'out of memory'; free memory and run it again",
        )  # fmt: skip
    if len(ending) != _REPORT_WORDS:
        raise RuntimeError(f"the supervisor of {what} failed ({process.returncode})\n{stderr.decode(errors='replace')}")
    status, peak_kb = map(int, ending)
    result = ChildResult(
        returncode=os.waitstatus_to_exitcode(status), stdout=stdout, stderr=stderr, wall_s=wall_s,
        peak_rss_bytes=peak_kb * 1024,
    )  # fmt: skip
    _judge(result, limits, what)
    return result


def _report(descriptor: int) -> list[bytes]:
    """The supervisor's words, none where it was killed (a process it left behind may hold the pipe open)."""
    try:
        return os.read(descriptor, 64).split()
    except BlockingIOError:
        return []


def _collect(
    process: subprocess.Popen[bytes],
    start_s: float,
    limits: Limits,
    what: str,
    limit_bytes: int,
    told: Listener | None,
) -> tuple[bytes, bytes]:
    """Reads outputs and what is told until the supervisor (and not whoever else holds the outputs) has ended."""
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
                left_s = start_s + limits.timeout_s - time.monotonic()
                ready = selector.select(min(max(left_s, 0), _LONGEST_WAIT_S))
                if not ready and left_s <= _LONGEST_WAIT_S:
                    raise _out_of_time(limits, what)
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


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks the group to end, gives it a second, has the supervisor kill all that is left, and reaps it."""
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


def _wait_for(pid: int, patience_s: float) -> None:
    end_s = time.monotonic() + patience_s
    while not _has_ended(pid) and time.monotonic() < end_s:
        time.sleep(0.01)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _out_of_time(limits: Limits, what: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{what} was stopped",
        f"it took longer than its limit of {limits.timeout_s:g} s",
        "give it more time, give it less to do, or use a faster machine",
    )


def _judge(result: ChildResult, limits: Limits, what: str) -> None:
    """Raises for an ending that is the machine's doing and not the program's."""
    if result.returncode == 0:
        return
    if result.returncode == -signal.SIGKILL or is_out_of_memory(result.stderr[-_CHUNK_BYTES:]):
        limit = "" if limits.memory_bytes is None else f" of the allowed {megabytes(limits.memory_bytes)}"
        raise EnvironmentFailure(
            f"{what} ran out of memory",
            f"it needed more than it could get (peak {megabytes(result.peak_rss_bytes)}{limit})",
            "use a smaller batch or model, close other programs, or use a machine with more memory",
        )
    if limits.file_bytes is not None and (
        result.returncode == -signal.SIGXFSZ or b"File too large" in result.stderr[-_CHUNK_BYTES:]
    ):
        raise EnvironmentFailure(
            f"{what} was stopped",
            f"it wrote a file of over {megabytes(limits.file_bytes)}, which is the limit",
            "use a smaller model",
        )
    if result.returncode in {LIMIT_FAILED, NOT_STARTED} and result.stderr.startswith(b"cannot "):
        raise EnvironmentFailure(
            f"{what} could not be started",
            result.stderr.decode(errors="replace").strip(),
            "check that the program is installed, and the limits of this account (ulimit -a)",
        )
