"""Whether a file that a device sent is an .npz as numpy writes plain numbers: nothing packed, nothing that lies."""

from __future__ import annotations

import math
import tokenize
import zipfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MAX_ARRAYS_BYTES: Final = 2 << 30
_MAX_MEMBERS: Final = 4096
_END_BYTES: Final = (
    22  # of a zip: signature, disks 2 x 2, entries 2 x 2, size and place of the directory 2 x 4, comment 2
)
_LOCATOR_BYTES: Final = 20  # of the larger kind of directory, before the end; no file below 4 GB needs one
_NUMBERS: Final = "biufc"
_CHUNK_BYTES: Final = 1 << 20


def arrays_fault(path: Path) -> str | None:
    """What is wrong with an .npz; None when it holds arrays of plain numbers, whole, of bounded size.

    Reads all of it once, never more than a small part at a time: its directory is looked at only when it is short, and
    a packed member, which could hold far more than was sent, is refused.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_ARRAYS_BYTES or not _has_short_directory(path, size_bytes):
            return f"it is no archive, holds over {_MAX_MEMBERS} arrays, or over {MAX_ARRAYS_BYTES} bytes"
        with zipfile.ZipFile(path) as archive:
            return _archive_fault(archive, size_bytes)
    except (
        ValueError, TypeError, EOFError, OSError, NotImplementedError, RuntimeError, SyntaxError, MemoryError,
        tokenize.TokenError, zipfile.BadZipFile,
    ) as error:  # fmt: skip  # numpy evaluates a header as a literal, which can fail in all these ways
        return str(error) or type(error).__name__


def _has_short_directory(path: Path, size_bytes: int) -> bool:
    """Whether the file begins as a zip, and ends with the plain end of one, which names few entries."""
    with path.open("rb") as stream:
        begin = stream.read(4)
        stream.seek(max(0, size_bytes - _LOCATOR_BYTES - _END_BYTES))
        tail = stream.read()
    end, before = tail[-_END_BYTES:], tail[:-_END_BYTES]
    if begin != b"PK\3\4" or not end.startswith(b"PK\5\6") or before.startswith(b"PK\6\7"):
        return False
    entries, directory_bytes = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    return entries <= _MAX_MEMBERS and directory_bytes <= _MAX_MEMBERS << 10


def _archive_fault(archive: zipfile.ZipFile, size_bytes: int) -> str | None:
    members = archive.infolist()
    if not members or sum(member.file_size for member in members) > size_bytes:
        return "it holds nothing, or more than was sent"
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        return "it holds two arrays of one name"
    for member in members:
        fault = _member_fault(archive, member)
        if fault is not None:
            return fault
    return None


def _member_fault(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str | None:
    import numpy as np  # heavy: only those who fetch pay for it

    if not member.filename.endswith(".npy"):
        return f"it holds {member.filename[:80]!r}, which is no array"
    if member.compress_type != zipfile.ZIP_STORED:
        return "it is packed"
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            return "it holds an array in another format than numpy writes for plain numbers"
        shape, _, kind = np.lib.format.read_array_header_1_0(stream)
        if kind.hasobject or kind.kind not in _NUMBERS or min(shape, default=0) < 0:
            return "it holds more than numbers"
        left_bytes = math.prod(shape) * kind.itemsize
        while chunk := stream.read(_CHUNK_BYTES):  # to the end, where zipfile compares the checksum
            left_bytes -= len(chunk)
    return "it holds an array that is not whole" if left_bytes else None
