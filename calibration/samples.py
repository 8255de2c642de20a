"""Calibration samples: checked once, iterated as often as needed, named by the hash of their content."""

from __future__ import annotations

import copy
import hashlib
import struct
import zipfile
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from calibration.storedarray import StoredArray, spool, stored_folder, stored_members
from targets.errors import InputError
from targets.files import disk_guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from targets.onnxfile import ModelIo, TensorSpec

Array = NDArray[Any]
_CHUNK_BYTES: Final = 2**23
_ID_DIGITS: Final = 16


@final
class CalibrationSet:
    """Samples by input name, in memory or in their file.

    Iterating yields batches ``{name: (B, ...)}`` in stored order; the last one may be smaller. Iterating again yields
    the same batches again. What lies in a file (`load`, `from_batches`) is read batch by batch and never held.

    Args:
        arrays: ``{input name: (N, ...)}``, one common N.
        batch_size: Samples in a batch.

    Raises:
        InputError: No samples, unequal N, or NaN or Inf in a sample.
    """

    def __init__(self, arrays: Mapping[str, Array | StoredArray], *, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}", "a batch holds at least one sample", "use 1 or more")
        self._arrays = {
            name: array if isinstance(array, StoredArray) else np.asarray(array, order="C")
            for name, array in sorted(arrays.items())
        }
        self._chosen: NDArray[np.int64] | None = None
        self._numbers: Sequence[int] | None = None
        self._count = _common_count(self._arrays)
        self.batch_size = batch_size
        for name, array in self._arrays.items():
            _check_type(name, array)
            for first, part in self._parts(name):
                _check_finite(name, first, part)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for start in range(0, self._count, self.batch_size):
            yield self.rows(start, start + self.batch_size)

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """Samples ``start`` to ``stop``, fewer at the end."""
        return {name: self._read(name, start, stop) for name in self._arrays}

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Input name -> (numpy's name of its type, shape of one sample)."""
        return {name: (array.dtype.name, array.shape[1:]) for name, array in self._arrays.items()}

    @property
    def content_sha256(self) -> str:
        """Hash of names, types, shapes and values; neither the batch size nor where they lie is part of the content."""
        return self._hashes[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """Each sample's own hash (16 hex digits), in order; equal samples have equal ids."""
        return self._hashes[1]

    def numbered(self, numbers: Sequence[int]) -> CalibrationSet:
        """The same samples, called by these numbers: those that the user knows them by.

        Raises:
            InputError: There are more numbers than samples, or fewer.
        """
        if len(numbers) != self._count:
            raise InputError(
                f"there are {len(numbers)} numbers for {self._count} samples",
                "each sample has one",
                "give one for each",
            )
        other = copy.copy(self)
        other._numbers = numbers  # noqa: SLF001 - a copy of this very object
        return other

    def number(self, index: int) -> int:
        """What sample ``index`` is called in errors: its number in the set that this one was split from."""
        stored = index if self._chosen is None else int(self._chosen[index])
        return stored if self._numbers is None else int(self._numbers[stored])

    def in_batches(self, batch_size: int) -> CalibrationSet:
        """The same samples in batches of another size."""
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    @cached_property
    def _hashes(self) -> tuple[str, tuple[str, ...]]:
        """One hash of all, one of each sample: the first is made from the others, so that values are read once."""
        each = [hashlib.sha256() for _ in range(self._count)]
        for name in self._arrays:
            for first, part in self._parts(name):
                for index, row in enumerate(part):
                    each[first + index].update(np.ascontiguousarray(row).data)
        header = [(name, a.dtype.str, (self._count, *a.shape[1:])) for name, a in self._arrays.items()]
        whole = hashlib.sha256(repr(header).encode() + b"".join(one.digest() for one in each))
        return whole.hexdigest(), tuple(one.hexdigest()[:_ID_DIGITS] for one in each)

    def _parts(self, name: str) -> Iterator[tuple[int, Array]]:
        """One input in contiguous parts of a few megabytes, each with the index of its first sample."""
        array = self._arrays[name]
        row_bytes = int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
        step = max(1, _CHUNK_BYTES // max(row_bytes, 1))
        for start in range(0, self._count, step):
            yield start, np.ascontiguousarray(self._read(name, start, start + step))

    def _read(self, name: str, start: int, stop: int) -> Array:
        array = self._arrays[name]
        if self._chosen is None:
            return array.read(start, stop) if isinstance(array, StoredArray) else array[start:stop]
        rows = self._chosen[start:stop]
        if not isinstance(array, StoredArray):
            return array[rows]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        return np.concatenate([array.read(int(run[0]), int(run[-1]) + 1) for run in runs])

    def check_against(self, io: ModelIo) -> None:
        """Holds names, types and shapes to the model's inputs.

        Raises:
            InputError: They differ; both sides are named.
        """
        wanted = {spec["name"]: spec for spec in io["inputs"]}
        if set(wanted) != set(self._arrays):
            raise InputError(
                f"the samples are named {sorted(self._arrays)}",
                f"the model's inputs are named {sorted(wanted)}",
                "name the arrays exactly like the model's inputs",
            )
        for name, array in self._arrays.items():
            self._check_input(wanted[name], array)

    def _check_input(self, spec: TensorSpec, array: Array | StoredArray) -> None:
        shape, fits = spec["shape"], len(spec["shape"]) == array.ndim
        fits = fits and all(isinstance(d, str) or d == n for d, n in zip(shape[1:], array.shape[1:], strict=True))
        if array.dtype.name != spec["dtype"] or not fits:
            raise InputError(
                f"samples {spec['name']!r} are {array.dtype.name} {[self._count, *array.shape[1:]]}",
                f"the model's input takes {spec['dtype']} {shape}",
                "prepare the samples exactly as for the model: same type, same shape after the batch axis",
            )
        fixed = shape[0] if shape else self.batch_size
        if isinstance(fixed, int) and (fixed != self.batch_size or self._count % fixed):
            raise InputError(
                f"{self._count} samples {spec['name']!r} come in batches of {self.batch_size}",
                f"the model takes only batches of exactly {fixed}",
                f"use batches of {fixed} and a multiple of {fixed} samples, or export with a free batch axis",
            )

    def split(self, every: int) -> tuple[CalibrationSet, CalibrationSet]:
        """The samples without each ``every``-th one, and those; both are the whole set when it has fewer."""
        held = np.arange(self._count) % every == every - 1
        if not held.any() or self._count < every:
            return self, self
        return self._only(np.flatnonzero(~held)), self._only(np.flatnonzero(held))

    def _only(self, rows: NDArray[np.int64]) -> CalibrationSet:
        other = copy.copy(self)
        vars(other).pop("_hashes", None)
        vars(other).update(_chosen=rows if self._chosen is None else self._chosen[rows], _count=len(rows))
        return other

    def save(self, path: Path) -> None:
        """Writes the samples as ``.npz``, one array per input, as numpy.savez would, without holding them."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in self._arrays.items():
                shape = (self._count, *array.shape[1:])
                header = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array_header_1_0(member, header)
                    for _, part in self._parts(name):
                        member.write(part.data)

    @classmethod
    def load(cls, path: Path, *, batch_size: int) -> CalibrationSet:
        """The samples in an ``.npz`` file or in a folder of `from_batches`; pickled objects are not read.

        Uncompressed arrays stay in the file, which must not change while the set is used.

        Raises:
            InputError: The file is missing or no ``.npz`` of plain arrays, or a sample is not valid.
        """
        try:
            stored = stored_folder(path) if path.is_dir() else stored_members(path)
            arrays: Mapping[str, Array | StoredArray] = _unpacked(path) if stored is None else stored
        except _UNREADABLE as error:
            raise InputError(
                f"the samples {path} cannot be read",
                " ".join(str(error).split())[:200] or type(error).__name__,
                "save them with numpy.savez(path, input_name=array), plain numeric arrays only",
            ) from error
        return cls(arrays, batch_size=batch_size)

    @classmethod
    def from_batches(cls, batches: Iterable[Mapping[str, Array]], folder: Path, *, batch_size: int) -> CalibrationSet:
        """Samples that come as batches, from a generator for instance; they go to files, never all into memory.

        Args:
            batches: ``{input name: (B, ...)}``; B may differ from batch to batch, all else not.
            folder: An empty or new folder; `load` opens it again.
            batch_size: Samples in a batch of the set.

        Raises:
            InputError: Batches that do not fit each other, a folder that is in use, or a sample that is not valid.
            EnvironmentFailure: The disk refused.
        """
        with disk_guard(f"writing calibration samples to {folder}", path=folder.parent):
            try:
                arrays = spool(batches, folder)
            except ValueError as error:
                raise InputError(
                    f"the calibration batches cannot be kept in {folder}",
                    " ".join(str(error).split())[:200],
                    "give batches with the same names, types and shapes, and a new folder",
                ) from error
        return cls(arrays, batch_size=batch_size)


_UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    AttributeError,
    TypeError,
    KeyError,
    struct.error,
    NotImplementedError,
)


def _unpacked(path: Path) -> dict[str, Array]:
    """Compressed arrays, in memory."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _common_count(arrays: Mapping[str, Array | StoredArray]) -> int:
    counts = {name: (len(array) if array.ndim else 0) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"the inputs have different numbers of samples: {counts}",
            "sample i of every input must belong together",
            "give every array the same length of its first axis",
        )
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise InputError(
            "there are 0 calibration samples",
            "ranges cannot be measured on nothing",
            "give some hundred representative samples",
        )
    return count


def _check_type(name: str, array: Array | StoredArray) -> None:
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"samples {name!r} have type {array.dtype}", "models take numbers", "convert them to the input's type"
        )


def _check_finite(name: str, first: int, part: Array) -> None:
    if part.dtype.kind == "f" and not (finite := np.isfinite(part)).all():
        raise InputError(
            f"sample {first + int(np.argwhere(~finite)[0][0])} of input {name!r} holds NaN or Inf",
            "such a sample makes every measured range meaningless",
            "remove or repair it, and look at the preprocessing that made it",
        )
