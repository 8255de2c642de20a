"""Where a study lives: a journal file beside the results, or a server that several machines share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from targets.errors import EnvironmentFailure, InputError
from targets.files import disk_guard

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_storage(place: str) -> BaseStorage:
    """The storage at a path (a journal file, made when missing), a Redis URL, or a URL of SQLAlchemy.

    A line that an interrupted writer left half written is cut off the journal.

    Raises:
        InputError: The URL is not one that optuna can open.
        EnvironmentFailure: optuna is not installed, the server does not answer, or the file cannot be written.
    """
    try:
        import optuna
    except ImportError as error:
        raise EnvironmentFailure(
            "searching needs optuna", "it is not installed", "pip install 'edgepress[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in place:
        return _journal_file(Path(place))
    try:
        if place.startswith("redis"):
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalRedisBackend(place))
        return optuna.storages.RDBStorage(place)
    except ImportError as error:
        raise EnvironmentFailure(
            f"cannot open the study at {_public(place)}", str(error), "install the driver of that database"
        ) from error
    except Exception as error:  # each database raises its own
        raise InputError(
            f"cannot open the study at {_public(place)}",
            " ".join(str(error).split())[:300] or type(error).__name__,
            "give a path, redis://HOST, postgresql://HOST/NAME or mysql://HOST/NAME of a server that answers",
        ) from error


def _journal_file(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    with disk_guard(f"opening the study {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(path))
        backend = JournalFileBackend(str(path), lock_obj=lock)
        lock.acquire()
        try:
            _cut_torn_line(path)
        finally:
            lock.release()
    return JournalStorage(backend)


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def _public(place: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = place.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
