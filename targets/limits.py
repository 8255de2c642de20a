"""Limits of a child process, how it ended, and which endings are the machine's doing."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final

from targets.child import LIMIT_FAILED, NOT_STARTED
from targets.errors import EnvironmentFailure
from targets.files import megabytes
from targets.memory import is_out_of_memory

_LEAST_MEMORY_BYTES: Final = 16 << 30  # libraries reserve more addresses than they use
_LAST_WORDS_BYTES: Final = 1 << 16


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
        wall_s: From start to end, the start of the supervisor (about 20 ms) included; of a fork from the fork on.
        peak_rss_bytes: Its largest resident memory, children it waited for included.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    wall_s: float
    peak_rss_bytes: int


def out_of_time(limits: Limits, what: str) -> EnvironmentFailure:
    """The error of a child whose time is up."""
    return EnvironmentFailure(
        f"{what} was stopped",
        f"it took longer than its limit of {limits.timeout_s:g} s",
        "give it more time, give it less to do, or use a faster machine",
    )


def judge(result: ChildResult, limits: Limits, what: str) -> None:
    """Raises for an ending that is the machine's doing and not the program's.

    Raises:
        EnvironmentFailure: Out of memory, a file over its limit, or not even started.
    """
    if result.returncode == 0:
        return
    if result.returncode == -signal.SIGKILL or is_out_of_memory(result.stderr[-_LAST_WORDS_BYTES:]):
        limit = "" if limits.memory_bytes is None else f" of the allowed {megabytes(limits.memory_bytes)}"
        raise EnvironmentFailure(
            f"{what} ran out of memory",
            f"it needed more than it could get (peak {megabytes(result.peak_rss_bytes)}{limit})",
            "use a smaller batch or model, close other programs, or use a machine with more memory",
        )
    if limits.file_bytes is not None and (
        result.returncode == -signal.SIGXFSZ or b"File too large" in result.stderr[-_LAST_WORDS_BYTES:]
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
