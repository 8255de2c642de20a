"""What a build writes goes to the disk beside its further work; all of it is there before the build counts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from targets.files import disk_guard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path


class _Pending:
    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsync")
        self.syncs: list[Future[None]] = []


_PENDING: Final[ContextVar[_Pending | None]] = ContextVar("_PENDING", default=None)


@contextmanager
def synced_by_the_end(folder: Path) -> Iterator[None]:
    """Within it `sync` does not wait; leaving it does, so that what is written afterwards may rely on all of it.

    Args:
        folder: Where all of it lies, for the message.

    Raises:
        EnvironmentFailure: The disk refused one of them.
    """
    pending = _Pending()
    token = _PENDING.set(pending)
    try:
        with pending.thread:
            yield
    finally:
        _PENDING.reset(token)
    with disk_guard(f"writing the engine to {folder}", path=folder):
        for done in pending.syncs:
            done.result()


def sync_folder(path: Path) -> None:
    """Makes the names in a folder survive a power loss; as `sync`.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Brings an open file to the disk: now, or by the end of `synced_by_the_end`.

    Raises:
        OSError: The disk refused.
    """
    pending = _PENDING.get()
    if pending is None:
        os.fsync(descriptor)
    else:
        pending.syncs.append(pending.thread.submit(_sync_and_close, os.dup(descriptor)))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
