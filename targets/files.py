"""Writes that are whole or absent: hashes, atomic files and folders, and disk faults said in three lines."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.errors import DiskFailure, EnvironmentFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_FAULTS: Final = _NO_SPACE | {errno.EROFS, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE}
"""What a disk or an exhausted system says, never a wrong path."""
_REMEDIES: Final = {
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.EACCES: "check owner and permissions of that place",
    errno.EPERM: "check owner and permissions of that place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise fs.file-max",
    errno.EFBIG: "raise the limit of the file size (ulimit -f), or choose a filesystem that takes larger files",
    errno.EIO: "check the disk (dmesg says more), or choose another one",
    errno.ENOENT: "check that the folder exists and was not removed meanwhile",
    errno.EEXIST: "remove what is there, or choose another place",
    errno.EISDIR: "give the path of a file, not of a folder",
    errno.ENOTDIR: "give the path of a folder, not of a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EXDEV: "keep source and destination on one filesystem",
}


def sha256_bytes(data: bytes) -> str:
    """The sha256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes as 64 lower-case hex digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def megabytes(size_bytes: int) -> str:
    """A size for people: ``38.2 MB`` (10^6 bytes), whole bytes below 0.1 MB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes} bytes"  # noqa: PLR2004


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder (a rename, a new file) survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_guard(
    action: str, *, path: Path | None = None, size_bytes: int = 0, hint: str = "", only: frozenset[int] | None = None
) -> Iterator[None]:
    """Translates any OSError inside into a DiskFailure.

    Args:
        action: What is being done, as a gerund: ``writing 'model.onnx' (38.2 MB) to /cache``.
        path: A place on the disk in question, to tell the free space; the path in the error when not given.
        size_bytes: How much is being written; what must be free.
        hint: Another way out, added to the fix (``choose another cache with EDGEPRESS_CACHE``).
        only: Error numbers to translate; all when not given.

    Raises:
        DiskFailure: The operating system refused.
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        place = path or (Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None)
        raise DiskFailure(
            f"{action} failed", _reason(error, place), _remedy(error, size_bytes) + (f", or {hint}" if hint else "")
        ) from error


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes a whole file or nothing: temporary beside it, fsync, rename, fsync of the folder.

    Raises:
        EnvironmentFailure: Disk full, no permission, or the like; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    with disk_guard(f"writing {path} ({megabytes(len(data))})", path=path.parent, size_bytes=len(data)):
        try:
            write_new(temporary, data, mode)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes several files that belong together into a folder, each whole or absent, in their order.

    Raises:
        EnvironmentFailure: As for `write_atomic`.
    """
    temporary = {name: folder / f".{os.urandom(8).hex()}.tmp" for name in files}
    with disk_guard(f"writing {', '.join(files)} to {folder}", path=folder, size_bytes=sum(map(len, files.values()))):
        try:
            for name, data in files.items():
                write_new(temporary[name], data)
            for name, path in temporary.items():
                path.rename(folder / name)
        except BaseException:
            for path in temporary.values():
                path.unlink(missing_ok=True)
            raise
        fsync_folder(folder)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes a file that must not exist yet and fsyncs it; it is private (0600) until it is whole.

    Raises:
        OSError: It exists, or cannot be written.
    """
    with os.fdopen(os.open(path, NEW_FILE, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), mode)


def replace_folder(source: Path, destination: Path) -> None:
    """Puts a finished folder in the place of an old one, all at once, and removes the old one.

    Both must be on one filesystem. All of ``source`` is fsynced first. Where the filesystem can exchange two names,
    there is no instant without a ``destination``; elsewhere the old one is renamed aside first.

    Raises:
        EnvironmentFailure: The disk refused, or ``destination`` is something else than a folder.
    """
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise EnvironmentFailure(
            f"cannot publish the folder {destination}",
            "something that is not a folder has that name",
            "move it away, or choose another place",
        )
    with disk_guard(f"publishing the folder {destination}", path=destination.parent):
        _fsync_tree(source)
        if not destination.exists():
            source.rename(destination)
            fsync_folder(destination.parent)
            return
        old = source if _exchange(source, destination) else _rename_aside(source, destination)
        fsync_folder(destination.parent)
        remove_tree(old)


def remove_tree(path: Path) -> None:
    """Removes a folder and all below it, never following a link; nothing to remove is fine.

    Raises:
        OSError: Something cannot be removed.
    """
    import shutil  # heavy: only those who remove pay for it

    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path)


def _fsync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(place, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(place))


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step (renameat2); False where kernel, C library or filesystem cannot."""
    import ctypes  # heavy: only those who replace a folder pay for it

    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if not library.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), str(second))


def _rename_aside(source: Path, destination: Path) -> Path:
    old = destination.with_name(f".{os.urandom(8).hex()}.old")
    destination.rename(old)
    try:
        source.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    return old


def _reason(error: OSError, place: Path | None) -> str:
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason += f": {os.fsdecode(error.filename)!r}"
    free_bytes = _free_bytes(place) if error.errno in _NO_SPACE and place else None
    return reason if free_bytes is None else f"{reason} ({megabytes(free_bytes)} free)"


def _remedy(error: OSError, size_bytes: int) -> str:
    if error.errno in _NO_SPACE:
        return f"free at least {max(size_bytes / 1e6 * 1.1, 1):.0f} MB on that disk and run again"
    return _REMEDIES.get(error.errno or 0, "check that disk and run again")


def _free_bytes(place: Path) -> int | None:
    try:
        usage = os.statvfs(place)
    except OSError:
        return None
    return usage.f_bavail * usage.f_frsize
