"""Where the data comes from, identified by content so that a cached run need not load it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from pipeline.usercode import FactoryRef, call_factory
from targets.errors import Fault, InputError
from targets.files import sha256_file

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset


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
