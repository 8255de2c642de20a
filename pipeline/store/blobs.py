"""Blobs: files that are named by the sha256 of their bytes, and hashed before they are believed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final, final

from pipeline.store.entries import DamageError, FileRef
from pipeline.store.place import private_folder
from targets.errors import RefusedError
from targets.files import NEW_FILE, disk_guard, fsync_folder, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_CHUNK_BYTES: Final = 1 << 20
_UNREADABLE: Final = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENXIO}
)


@final
class Blobs:
    """The folder ``cas/``. Each blob is hashed once per process, and again when the file there is another one.

    Args:
        folder: Where they lie, as ``ab/ab...``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: dict[str, tuple[int, ...]] = {}

    def path(self, sha256: str) -> Path:
        """Where the blob with that hash lies, or would lie."""
        return self._folder / sha256[:2] / sha256

    def all(self) -> Iterator[Path]:
        """Whatever lies where a blob may lie, sorted."""
        for folder in sorted(self._folder.iterdir()):
            yield from sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else [folder]

    def check(self, ref: FileRef) -> None:
        """Does nothing when the blob is what it should be.

        Raises:
            DamageError: It is missing, no plain file, or has another length or hash.
        """
        with open_plain(self.path(ref.sha256)) as file:
            identity = _identity(file)
            if self._verified.get(ref.sha256) != identity:
                self._verified.pop(ref.sha256, None)
                copy(file, ref, None)
                self._verified[ref.sha256] = identity

    def forget(self) -> None:
        """Hash every blob again before it is believed."""
        self._verified.clear()

    def install(self, staged: Iterable[tuple[Path, FileRef]]) -> None:
        """Moves staged files to their places, over what is there, and makes the names last.

        What lies there stays only if this process has hashed it.

        Raises:
            OSError: The disk refused.
        """
        touched = {self._folder}
        for temporary, ref in staged:
            place = self.path(ref.sha256)
            private_folder(place.parent)
            touched.add(place.parent)
            if self._is_known_good(place, ref):
                continue
            if place.is_dir() and not place.is_symlink():
                remove_tree(place)  # the one kind of damage that a rename does not replace
            temporary.rename(place)
        for folder in sorted(touched, reverse=True):  # all of them: who made what is there may have died before this
            fsync_folder(folder)

    def _is_known_good(self, place: Path, ref: FileRef) -> bool:
        try:
            with open_plain(place) as file:
                return self._verified.get(ref.sha256) == _identity(file)
        except DamageError:
            return False


def plain_files(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its posix name, sorted.

    Raises:
        RefusedError: Something there is neither a plain file nor a folder.
    """
    with disk_guard(f"reading {folder}"):
        found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    for name, path in found.items():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise _not_plain(name, "it is a link, a device or a pipe")
    return {name: path for name, path in found.items() if not path.is_dir()}


def stage_file(source: Path, name: str, temporary: Path) -> FileRef:
    """Copies a file of a result to a new private file, hashed, fsynced and read-only.

    Raises:
        RefusedError: ``source`` is a link, a device or the like.
        OSError: The disk refused.
    """
    try:
        file = open_plain(source)
    except DamageError as error:
        raise RefusedError(
            f"refused to store {name!r}",
            f"{error}",
            "a result may hold plain readable files only; remove it and run again",
        ) from error
    with file, os.fdopen(os.open(temporary, NEW_FILE, 0o600), "wb") as out:
        digest, size_bytes = _pump(file, out)
        out.flush()
        os.fsync(out.fileno())
        os.fchmod(out.fileno(), 0o444)
    return FileRef(name=name, sha256=digest, size_bytes=size_bytes)


def copy(file: BinaryIO, ref: FileRef, out: BinaryIO | None) -> None:
    """Reads a blob to its end, hashing it, and copies it to ``out`` if given.

    Raises:
        DamageError: Its bytes are not those of ``ref``; what was copied must be thrown away.
    """
    try:
        digest, size_bytes = _pump(file, out)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamageError(f"{ref.name!r}: {error.strerror}") from error
    if digest != ref.sha256:
        raise DamageError(f"{ref.name!r}: expected sha256 {ref.sha256[:12]}, got {digest[:12]}")
    if size_bytes != ref.size_bytes:
        raise DamageError(f"{ref.name!r}: expected {ref.size_bytes} bytes, got {size_bytes}")


def open_plain(path: Path) -> BinaryIO:
    """Opens a regular file for reading, never through a link, never waiting for a pipe.

    Raises:
        DamageError: It is missing, unreadable, a link, a folder, a device or a pipe.
        OSError: Another fault, which is not that of the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise DamageError(f"{path.name!r} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamageError(f"{path.name!r} is not a plain file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _not_plain(name: str, why: str) -> RefusedError:
    return RefusedError(f"refused to store {name!r}", why, "a result may hold plain readable files only; remove it")


def _pump(file: BinaryIO, out: BinaryIO | None) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    while data := file.read(_CHUNK_BYTES):
        digest.update(data)
        size_bytes += len(data)
        if out is not None:
            out.write(data)
    return digest.hexdigest(), size_bytes


def _identity(file: BinaryIO) -> tuple[int, ...]:
    """Changes whenever the file or its bytes change through the filesystem."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
