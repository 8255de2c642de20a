"""Calibration samples: checked once, iterated as often as needed, named by the hash of their content."""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from targets.onnxfile import ModelIo, TensorSpec

Array = NDArray[np.generic]
_CHUNK = 256


@final
class CalibrationSet:
    """Samples by input name, in memory.

    Iterating yields batches ``{name: (B, ...)}`` in stored order; the last one may be smaller. Iterating again yields
    the same batches again.

    Args:
        arrays: ``{input name: (N, ...)}``, one common N.
        batch_size: Samples in a batch.

    Raises:
        InputError: No samples, unequal N, or NaN or Inf in a sample.
    """

    def __init__(self, arrays: Mapping[str, Array], *, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}", "a batch holds at least one sample", "use 1 or more")
        self._arrays = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
        self._count = _common_count(self._arrays)
        self.batch_size = batch_size
        for name, array in self._arrays.items():
            _check_finite(name, array)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for start in range(0, self._count, self.batch_size):
            yield {name: array[start : start + self.batch_size] for name, array in self._arrays.items()}

    @property
    def content_sha256(self) -> str:
        """Hash of names, types, shapes and values; the batch size is not part of the content."""
        digest = hashlib.sha256()
        for name, array in self._arrays.items():
            digest.update(repr((name, array.dtype.str, array.shape)).encode())
            digest.update(array.data)
        return digest.hexdigest()

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

    def _check_input(self, spec: TensorSpec, array: Array) -> None:
        shape, fits = spec["shape"], len(spec["shape"]) == array.ndim
        fits = fits and all(isinstance(d, str) or d == n for d, n in zip(shape[1:], array.shape[1:], strict=True))
        if array.dtype.name != spec["dtype"] or not fits:
            raise InputError(
                f"samples {spec['name']!r} are {array.dtype.name} {list(array.shape)}",
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
        kept = {name: array[~held] for name, array in self._arrays.items()}
        back = {name: array[held] for name, array in self._arrays.items()}
        return CalibrationSet(kept, batch_size=self.batch_size), CalibrationSet(back, batch_size=self.batch_size)

    def save(self, path: Path) -> None:
        """Writes the samples as ``.npz``, one array per input."""
        np.savez(path, **self._arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, *, batch_size: int) -> CalibrationSet:
        """The samples in an ``.npz`` file; pickled objects are not read.

        Raises:
            InputError: The file is missing or no ``.npz`` of plain arrays, or a sample is not valid.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            raise InputError(
                f"the samples {path} cannot be read",
                " ".join(str(error).split())[:200] or type(error).__name__,
                "save them with numpy.savez(path, input_name=array), plain numeric arrays only",
            ) from error
        return cls(arrays, batch_size=batch_size)


def _common_count(arrays: Mapping[str, Array]) -> int:
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


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"samples {name!r} have type {array.dtype}", "models take numbers", "convert them to the input's type"
        )
    if array.dtype.kind != "f":
        return
    for start in range(0, len(array), _CHUNK):
        finite = np.isfinite(array[start : start + _CHUNK])
        if not finite.all():
            first = start + int(np.argwhere(~finite)[0][0])
            raise InputError(
                f"sample {first} of input {name!r} holds NaN or Inf",
                "such a sample makes every measured range meaningless",
                "remove or repair it, and look at the preprocessing that made it",
            )
