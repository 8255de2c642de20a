"""Arrays of samples that stay in their file: only the rows asked for are read, so memory does not grow with them."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, final

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

INDEX: Final = "samples.json"
_LOCAL_HEADER_BYTES: Final = 30
_PLAIN_FILE: Final = re.compile(r"\d+\.npy")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """Rows of one type and shape, one behind the other in a file.

    Attributes:
        path: The file; it must not change while it is read.
        offset: Where the first row starts, in bytes.
        dtype: Type of the values.
        shape: ``(N, ...)``.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``, a new array."""
        per_row = int(np.prod(self.shape[1:], dtype=np.int64))
        stop = min(stop, self.shape[0])
        array: NDArray[Any] = np.fromfile(
            self.path,
            self.dtype,
            count=(stop - start) * per_row,
            offset=self.offset + start * per_row * self.dtype.itemsize,
        )
        return array.reshape(stop - start, *self.shape[1:])


def stored_members(path: Path) -> dict[str, StoredArray] | None:
    """The arrays of an ``.npz`` in place; None when one of them is compressed or in column order.

    Raises:
        ValueError: A member is no plain array, or shorter than its header says.
        OSError: The file cannot be read.
        zipfile.BadZipFile: It is no archive.
    """
    arrays: dict[str, StoredArray] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                return None
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER_BYTES)
            name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
            start = member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
            array = _array_at(path, file, start, member.file_size)
            if array is None:
                return None
            arrays[member.filename.removesuffix(".npy")] = array
    return arrays


def stored_folder(folder: Path) -> dict[str, StoredArray]:
    """The arrays that `spool` wrote.

    Raises:
        ValueError: The index or an array is damaged.
        OSError: A file cannot be read.
    """
    arrays: dict[str, StoredArray] = {}
    for name, file_name in json.loads((folder / INDEX).read_text("utf-8")).items():
        if not _PLAIN_FILE.fullmatch(file_name):
            raise ValueError(f"{file_name!r} is no file name of samples")
        path = folder / file_name
        with path.open("rb") as file:
            array = _array_at(path, file, 0, path.stat().st_size)
        if array is None:
            raise ValueError(f"{file_name} is in column order")
        arrays[str(name)] = array
    return arrays


def spool(batches: Iterable[Mapping[str, NDArray[Any]]], folder: Path) -> dict[str, StoredArray]:
    """Writes batches to one ``.npy`` file for each name as they come; only one batch is in memory at a time.

    Raises:
        ValueError: A batch has other names, types or shapes than the first, or ``folder`` is not empty.
        OSError: The disk refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    files: dict[str, _Growing] = {}
    try:
        for batch in batches:
            if not files:
                files = {name: _Growing(folder / f"{i}.npy", batch[name]) for i, name in enumerate(sorted(batch))}
            if set(batch) != set(files):
                raise ValueError(f"a batch is named {sorted(batch)}, the first {sorted(files)}")
            for name, array in batch.items():
                files[name].append(array)
    finally:
        for growing in files.values():
            growing.close()
    index = {name: growing.path.name for name, growing in files.items()}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", "utf-8")
    return stored_folder(folder)


def _array_at(path: Path, file: BinaryIO, start: int, size: int) -> StoredArray | None:
    file.seek(start)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("object arrays are not read")
    if fortran and len(shape) > 1:
        return None
    offset = file.tell()
    if not shape:
        shape = (0,)  # a single number holds no samples
    elif offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize > start + size:
        raise ValueError("an array is shorter than its header says")
    return StoredArray(path=path, offset=offset, dtype=dtype, shape=shape)


@final
class _Growing:
    """An ``.npy`` file whose number of rows is known at its end: numpy leaves room in the header for it."""

    def __init__(self, path: Path, first: NDArray[Any]) -> None:
        self.path = path
        self._row, self._dtype, self._count = first.shape[1:], first.dtype, 0
        self._file = path.open("xb")
        self._header()
        self._start = self._file.tell()

    def append(self, array: NDArray[Any]) -> None:
        if array.ndim == 0 or array.shape[1:] != self._row or array.dtype != self._dtype:
            raise ValueError(
                f"a batch is {array.dtype} {list(array.shape)}, the first was {self._dtype} [..., {self._row}]"
            )
        self._file.write(np.ascontiguousarray(array).data)
        self._count += len(array)

    def close(self) -> None:
        self._file.seek(0)
        self._header()
        assert self._file.tell() == self._start
        self._file.close()

    def _header(self) -> None:
        shape = (self._count, *self._row)
        descr = npy.dtype_to_descr(self._dtype)
        npy.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": shape})
