"""Ends processes whose supervisor was killed: they are found by a mark in the environment that they inherited."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill_marked(mark: str) -> int:
    """Kills every process of ours with ``mark`` (``NAME=value``) in its environment, this one left out.

    Returns:
        How many there were. Other users' processes cannot be read, and so are never among them.
    """
    running = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    found = [pid for pid in running if _is_marked(pid, mark.encode())]
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def _is_marked(pid: int, mark: bytes) -> bool:
    if pid == os.getpid():
        return False
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
