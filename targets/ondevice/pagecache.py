"""The kernel's cache of a file: dropped, so that the next read comes from the disk, and looked at whether it was."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def drop(path: Path) -> bool:
    """Asks the kernel to forget a file's pages (posix_fadvise DONTNEED); True when none of them is in memory then.

    False where the file lies in memory anyhow (tmpfs), another process holds it, or the kernel does not tell.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as stream:
        os.fsync(stream.fileno())  # pages that are not yet written cannot be dropped
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_pages(path) == 0


def resident_pages(path: Path) -> int | None:
    """How many pages of a file are in memory (mincore(2)); None where the kernel does not tell."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    flags = (ctypes.c_ubyte * pages)()
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except (OSError, AttributeError):
        return None
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        start = ctypes.c_char.from_buffer(view)
        failed = mincore(ctypes.addressof(start), size, flags)
        del start  # else the map cannot be closed
    return None if failed else sum(flag & 1 for flag in flags)
