"""Where the data comes from, identified by content so that a cached run need not load it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pipeline.usercode import FactoryRef, call_factory, find_factory
from targets.errors import Fault, InputError
from targets.files import sha256_file

if TYPE_CHECKING:
    from pipeline.data.dataset import Array, Dataset
    from pipeline.recipe import Recipe

FEWEST_SAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file of the user's, known by its content.

    Attributes:
        sha256: Hash of the content.
        path: Where it lies (not part of a key: folders differ).
    """

    sha256: str
    path: Path = field(metadata={"key": False})


class DataSource(ABC):
    """A frozen description of data; `load` reads it."""

    @abstractmethod
    def load(self) -> Dataset:
        """The splits, checked.

        Raises:
            InputError: The data is not what it should be.
        """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryData(DataSource):
    """Splits made by a user's function.

    Attributes:
        factory: The function.
        files: Files it reads, by the name of the argument that takes their path.
    """

    factory: FactoryRef
    files: Mapping[str, FileRef]

    def load(self) -> Dataset:
        """The splits that the function returns."""
        from pipeline.data.dataset import dataset_from

        for name, file in self.files.items():
            check_unchanged(file, f"data.files.{name}")
        return dataset_from(
            call_factory(self.factory, {name: file.path for name, file in self.files.items()}, "data.factory")
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NpzData(DataSource):
    """Arrays of one ``.npz`` file, split at random, by seed: 2/4 calibration, 1/4 validation, 1/4 test.

    Attributes:
        file: The file, with arrays named like the model's inputs and, where there are any, ``labels``.
        seed: Seed of the permutation.
    """

    file: FileRef
    seed: int

    def load(self) -> Dataset:
        """The splits."""
        import numpy as np

        from pipeline.data.dataset import check_finite, dataset_from

        check_unchanged(self.file, "data.npz")
        arrays = _read_npz(self.file.path)
        lengths = {name: len(array) for name, array in arrays.items()}
        if not set(arrays) - {"labels"}:
            raise InputError(
                f"{self.file.path} holds no inputs",
                "its only array is `labels`" if arrays else "it is empty",
                "name each array like a model input",
            )
        if len(set(lengths.values())) != 1:
            raise InputError(
                f"{self.file.path} has arrays of different lengths",
                ", ".join(f"{name}: {length}" for name, length in lengths.items()),
                "give one row per sample in every array",
            )
        (samples,) = set(lengths.values())
        if samples < FEWEST_SAMPLES:
            raise InputError(
                f"{self.file.path} holds too few samples: {samples}",
                f"calibration, validation and test need one each, {FEWEST_SAMPLES} in all",
                "save more samples; some hundreds make accuracy and calibration worth something",
            )
        for name, array in arrays.items():  # before the samples change places, so that they have the file's numbers
            check_finite(array, f"{self.file.path}: {name}")
        order = np.random.default_rng(self.seed).permutation(samples)
        labels = arrays.pop("labels", None)
        return dataset_from(
            {
                name: ({key: array[rows] for key, array in arrays.items()}, None if labels is None else labels[rows])
                for name, rows in zip(
                    ("calibration", "validation", "test"),
                    np.split(order, [samples // 2, samples * 3 // 4]),
                    strict=True,
                )
            }
        )


def _read_npz(path: Path) -> dict[str, Array]:
    """All arrays of the file; objects, which would run code, are refused."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as file:  # numpy leaves a file of its own open when the archive is broken
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(
                    f"cannot read {path}",
                    "it holds one array without a name (.npy)",
                    "write it with numpy.savez(path, input_name=array)",
                )
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
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


def find_data(recipe: Recipe) -> DataSource | list[Fault]:
    """The recipe's data source, found without running user code or reading arrays."""
    if recipe.data.npz:
        file = find_file(recipe.resolve(recipe.data.npz), "data.npz")
        return [file] if isinstance(file, Fault) else NpzData(file=file, seed=recipe.seed)
    factory = find_factory(recipe.data.factory, recipe.folder, recipe.data.args, "data.factory")
    found = {name: find_file(recipe.resolve(path), f"data.files.{name}") for name, path in recipe.data.files.items()}
    faults = [item for item in (factory, *found.values()) if isinstance(item, Fault)]
    if faults:
        return faults
    assert not isinstance(factory, Fault)
    return FactoryData(
        factory=factory, files={name: file for name, file in found.items() if not isinstance(file, Fault)}
    )


def find_file(path: Path, where: str) -> FileRef | Fault:
    """The file at ``path``, hashed; a fault where it cannot be read."""
    try:
        return FileRef(sha256=sha256_file(path), path=path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return Fault(
            where=where,
            what=f"cannot read {path}: {getattr(error, 'strerror', error)}",
            fix=f"give the path with --set {where}=PATH, or put the file there",
        )


def check_unchanged(file: FileRef, where: str) -> None:
    """Says nothing while the file is what it was when the run began.

    Raises:
        InputError: It has other content; ``where`` is the recipe's key that names it.
    """
    if sha256_file(file.path) != file.sha256:
        raise InputError(
            f"{file.path} changed while the run was under way", f"it is {where}", "run the same command again"
        )
