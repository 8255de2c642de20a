"""Locks between processes that the kernel frees when their holder dies (flock)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from targets.errors import EnvironmentFailure
from targets.files import disk_guard, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds a lock file, waiting for it if need be.

    Args:
        path: The lock file; made if need be, left there.
        shared: Whether others may hold it in the same way.
        on_wait: Called once, before waiting.

    Raises:
        EnvironmentFailure: The filesystem has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = _acquire(path, kind, on_wait)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Holds a lock file exclusively, or gives False at once when anybody else holds it."""
    with disk_guard(f"locking {path}"):
        descriptor = _open(path)
    try:
        yield _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    finally:
        os.close(descriptor)


def check_locks_work(path: Path) -> None:
    """Tries to take a lock that this process holds already, which must fail.

    Raises:
        EnvironmentFailure: The filesystem only pretends to lock.
    """
    with held_alone(path) as alone:
        if alone:
            raise _no_locks(path)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder that is locked while its maker lives, and removed at the end."""
    with disk_guard(f"making a temporary folder in {parent}", path=parent):
        folder, descriptor = _make_locked(parent)
    try:
        yield folder
    finally:
        try:
            with disk_guard(f"removing the temporary folder {folder}"):
                remove_tree(folder)
        finally:
            os.close(descriptor)


def remove_leftovers(parent: Path) -> None:
    """Removes everything below ``parent`` whose maker is dead."""
    for leftover in sorted(parent.iterdir()):
        if not leftover.is_dir() or leftover.is_symlink():
            leftover.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):  # another process may be quicker
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, leftover):
                    remove_tree(leftover)
            finally:
                os.close(descriptor)


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / os.urandom(16).hex()
        folder.mkdir(mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken for a leftover in the instant before it was locked
        try:
            _flock(descriptor, fcntl.LOCK_EX, folder)
            if _is_at(descriptor, folder):
                return folder, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _acquire(path: Path, kind: int, on_wait: Callable[[], None] | None) -> int:
    waited = False
    while True:
        with disk_guard(f"locking {path}"):
            descriptor = _open(path)
        try:
            if not _flock(descriptor, kind | fcntl.LOCK_NB, path):
                if on_wait is not None and not waited:
                    on_wait()
                waited = True
                _flock(descriptor, kind, path)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # removed while we waited: that lock guards nothing any more


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _flock(descriptor: int, operation: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise _no_locks(path) from error
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _no_locks(path: Path) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"cannot lock {path}", "its filesystem has no working file locks, so two runs could disturb each other",
        "choose a cache on a local disk with EDGEPRESS_CACHE",
    )  # fmt: skip
