"""Looks at a stranger's ``.npz`` before numpy reads it: what it would unpack to, and whether it says the truth."""

from __future__ import annotations

import math
import os
import zipfile
from typing import TYPE_CHECKING, BinaryIO, Final

from numpy.lib import format as npy

if TYPE_CHECKING:
    import numpy as np

_MAX_MEMBERS: Final = 10_000
_LEAST_BYTES: Final = 1 << 30


def memory_bytes() -> int:
    """The memory of this machine: no data set is larger, since all of it is held."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_npz(file: BinaryIO, limit_bytes: int | None = None) -> None:
    """Reads the directory of the archive and the header of each array; the file is at its start afterwards.

    Args:
        file: The open file; what is no zip archive is left for numpy to tell.
        limit_bytes: The most that all arrays may unpack to; the machine's memory when None.

    Raises:
        ValueError: It would unpack to more, holds too many arrays, or a header promises other sizes than there are.
    """
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return
    limit_bytes = max(memory_bytes(), _LEAST_BYTES) if limit_bytes is None else limit_bytes
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total_bytes = sum(member.file_size for member in members)
        if len(members) > _MAX_MEMBERS:
            raise ValueError(f"it holds {len(members)} arrays, {_MAX_MEMBERS} are the limit")
        if total_bytes > limit_bytes:
            raise ValueError(f"its arrays unpack to {total_bytes} bytes, this machine has {limit_bytes} of memory")
        for member in members:
            with archive.open(member) as stream:
                shape, dtype, header_bytes = _header(stream)
            wanted = header_bytes + math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and wanted != member.file_size:
                raise ValueError(f"{member.filename} promises {wanted} bytes and holds {member.file_size}")
    file.seek(0)


def _header(stream: object) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    version = npy.read_magic(stream)  # type: ignore[arg-type]  # a file of the archive
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)  # type: ignore[arg-type]
    return shape, dtype, stream.tell()  # type: ignore[attr-defined]
