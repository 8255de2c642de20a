"""Who holds a device, in one line that the next one can check: a process that has ended holds nothing."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Final

_TAIL: Final = re.compile(r"\[([0-9a-f]{16}):([0-9]{1,9}):([0-9]{1,20})\]$")
_START_FIELD: Final = 19  # of /proc/PID/stat behind the name: start time in ticks since boot, proc(5) field 22


def this_process() -> str:
    """This process, for people and for `has_ended`: user, host, process id, and what makes that id unique."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    start = _start_of(os.getpid()) or 0
    return f"{user}@{socket.gethostname()}, process {os.getpid()} [{_machine()}:{os.getpid()}:{start}]"


def has_ended(holder: str) -> bool:
    """Whether the holder was a process of this machine that runs no more; False when it cannot be known."""
    found = _TAIL.search(holder)
    if found is None or found[1] != _machine():
        return False
    return str(_start_of(int(found[2]))) != found[3]


def for_people(holder: str) -> str:
    """The holder without what only `has_ended` reads."""
    return _TAIL.sub("", holder).strip() or "somebody"


def _machine() -> str:
    """This boot of this machine, and the namespace that its process ids belong to."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, space = socket.gethostname(), ""
    return hashlib.sha256(f"{boot}|{space}".encode()).hexdigest()[:16]


def _start_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[_START_FIELD])
