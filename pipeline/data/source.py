"""Where the data comes from, identified by content so that a cached run need not load it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from pipeline.usercode import FactoryRef, call_factory, find_factory
from targets.errors import Fault, InputError
from targets.files import sha256_file

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.recipe import Recipe


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
            if sha256_file(file.path) != file.sha256:
                raise InputError(f"{file.path} changed while the run was under way", f"it is data.files.{name}", "run the same command again")
        return dataset_from(call_factory(self.factory, {name: file.path for name, file in self.files.items()}, "data.factory"))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NpzData(DataSource):
    """Arrays of one ``.npz`` file, split by a seeded permutation: half calibration, a quarter validation, a quarter test.

    Attributes:
        file: The file, with arrays named like the model's inputs and, where there are any, ``labels``.
        seed: Seed of the permutation.
    """

    file: FileRef
    seed: int

    def load(self) -> Dataset:
        """The splits."""
        import zipfile

        import numpy as np

        from pipeline.data.dataset import dataset_from

        try:
            with np.load(self.file.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read {self.file.path}", " ".join(str(error).split()), "write it with numpy.savez; arrays of objects are refused") from error
        labels = arrays.pop("labels", None)
        if not arrays:
            raise InputError(f"{self.file.path} holds no inputs", "its only arrays are labels", "name each array like a model input")
        lengths = {name: len(array) for name, array in arrays.items()}
        samples = min(lengths.values())
        order = np.random.default_rng(self.seed).permutation(samples)
        parts = {"calibration": order[: samples // 2], "validation": order[samples // 2 : samples * 3 // 4], "test": order[samples * 3 // 4 :]}
        if len(set(lengths.values())) != 1 or (labels is not None and len(labels) != samples):
            raise InputError(f"{self.file.path} has arrays of different lengths", f"{lengths}", "give one row per sample in every array")
        return dataset_from(
            {
                name: ({key: array[rows] for key, array in arrays.items()}, None if labels is None else labels[rows])
                for name, rows in parts.items()
            }
        )


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
    return FactoryData(factory=factory, files={name: file for name, file in found.items() if not isinstance(file, Fault)})


def find_file(path: Path, where: str) -> FileRef | Fault:
    """The file at ``path``, hashed; a fault where it cannot be read."""
    try:
        return FileRef(sha256=sha256_file(path), path=path)
    except OSError as error:
        return Fault(
            where=where,
            what=f"cannot read {path}: {error.strerror}",
            fix=f"give the path with --set {where}=PATH, or put the file there",
        )
