"""Data of one ``.npz``: arrays named like the model's inputs, whole or by split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from pipeline.data.shares import Shares
from pipeline.data.source import DataSource, FileRef, check_unchanged
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.data.dataset import Array, Dataset

LABELS = "labels"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NpzData(DataSource):
    """Arrays of one ``.npz`` file.

    Arrays named like ``train.image`` and ``train.labels`` are that split's; otherwise all are named like the inputs
    (and ``labels``, where there are any), and rows are split at random, by seed.

    Attributes:
        file: The file.
        shares: How rows are split where the file does not say.
        chosen: Whether the recipe gave those shares itself, so that a file that says otherwise contradicts it.
    """

    file: FileRef
    shares: Shares
    chosen: bool = False

    def load(self) -> Dataset:
        """The splits."""
        from pipeline.data.dataset import SPLIT_NAMES, check_finite, dataset_from

        check_unchanged(self.file, "data.npz")
        arrays = _read_npz(self.file.path)
        for name, array in arrays.items():  # before the samples change places, so that they have the file's numbers
            check_finite(array, f"{self.file.path}: {name}")
        named = [name for name in arrays if name.partition(".")[0] in SPLIT_NAMES and "." in name]
        if named:
            return dataset_from(self._by_name(arrays, named))
        samples = _row_count(self.file.path, arrays)
        labels = arrays.pop(LABELS, None)
        shared = self.shares.split(samples, str(self.file.path))
        found = {
            name: ({key: array[rows] for key, array in arrays.items()}, None if labels is None else labels[rows])
            for name, rows in shared.items()
        }
        return dataset_from(found, rows=shared)

    def _by_name(self, arrays: dict[str, Array], named: list[str]) -> dict[str, object]:
        from pipeline.data.dataset import SPLIT_NAMES

        alone = sorted(set(arrays) - set(named))
        if alone:
            raise InputError(
                f"{self.file.path} holds {alone[0]!r} beside {named[0]!r}",
                "either every array names its split, or none does",
                f"rename it to SPLIT.INPUT with one of {', '.join(SPLIT_NAMES)}; {nearest(alone[0], named)}",
            )
        if self.chosen:
            raise InputError(
                f"{self.file.path} holds splits of its own",
                f"such as {named[0]!r}, so data.split would not be used",
                "remove data.split, or name the arrays without a split",
            )
        found: dict[str, dict[str, Array]] = {}
        for name in named:
            split, _, key = name.partition(".")
            found.setdefault(split, {})[key] = arrays[name]
        return {split: (own, own.pop(LABELS, None)) for split, own in found.items()}


def _row_count(path: Path, arrays: dict[str, Array]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if not set(arrays) - {LABELS}:
        raise InputError(
            f"{path} holds no inputs",
            "its only array is `labels`" if arrays else "it is empty",
            "name each array like a model input",
        )
    if len(set(lengths.values())) != 1:
        raise InputError(
            f"{path} has arrays of different lengths",
            ", ".join(f"{name}: {length}" for name, length in lengths.items()),
            "give one row per sample in every array",
        )
    return next(iter(lengths.values()))


def _read_npz(path: Path) -> dict[str, Array]:
    """All arrays of the file; objects, which would run code, are refused."""
    import zipfile
    import zlib

    import numpy as np

    from pipeline.data.npzfile import check_npz

    odd = (NotImplementedError, RuntimeError, MemoryError)  # an unknown compression, a password, no room
    try:
        with path.open("rb") as file:  # numpy leaves a file of its own open when the archive is broken
            check_npz(file)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(
                    f"cannot read {path}",
                    "it holds one array without a name (.npy)",
                    "write it with numpy.savez(path, input_name=array)",
                )
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, *odd) as error:
        raise InputError(
            f"cannot read {path}",
            " ".join(str(error).split())[:300] or type(error).__name__,
            "write it with numpy.savez(path, input_name=array); arrays of objects are refused",
        ) from error
    for name, array in arrays.items():
        if array.ndim == 0:
            raise InputError(
                f"array {name!r} of {path} is a single value",
                "every array holds one row per sample",
                "give it a first axis of samples, or leave it out of the file",
            )
    return arrays
