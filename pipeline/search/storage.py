"""Where a study lives: a journal file beside the results, or a server that several machines share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from targets.errors import EdgepressError, EnvironmentFailure, InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


_MAKERS: Final = 8  # of one database, at once
_MAKING_S: Final = 0.5
_A_DRIVER: Final = "install the driver of that database"
_DRIVERS: Final = {
    "postgresql": "pip install 'psycopg[binary]'",
    "mysql": "pip install mysqlclient",
    "redis": "pip install redis",
}


def open_storage(place: str) -> BaseStorage:
    """The storage at a path (a journal file, made when missing), a Redis URL, or a URL of SQLAlchemy.

    Raises:
        InputError: The URL is not one that optuna can open, or the file is damaged.
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
        return _redis(place) if place.startswith("redis") else _database(place)
    except ImportError as error:
        raise EnvironmentFailure(
            f"cannot open the study at {_public(place)}", str(error), _DRIVERS.get(place.partition("://")[0], _A_DRIVER)
        ) from error
    except Exception as error:  # each database raises its own
        raise InputError(
            f"cannot open the study at {_public(place)}",
            " ".join(str(error).split())[:300] or type(error).__name__,
            "give a path, redis://HOST, postgresql://HOST/NAME or mysql://HOST/NAME of a server that answers",
        ) from error


def _journal_file(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage

    from pipeline.search.journal import JournalFile, damaged

    try:
        return JournalStorage(JournalFile(path))
    except EdgepressError:
        raise
    except Exception as error:  # whatever optuna meets in events that hold together and make no sense
        raise damaged(path, f"its events make no sense ({type(error).__name__})") from error


def _database(place: str) -> BaseStorage:
    """Tries again where another worker makes the tables in the same moment: the database refuses the second one."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for _ in range(_MAKERS):
        try:
            return RDBStorage(place)
        except (IntegrityError, ProgrammingError):
            time.sleep(_MAKING_S)
    return RDBStorage(place)


def _redis(place: str) -> BaseStorage:
    """Events only: optuna keeps snapshots there too, pickles that whoever can write to that server could forge."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend, JournalRedisBackend

    server = JournalRedisBackend(place)

    class Events(BaseJournalBackend):
        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            return server.read_logs(log_number_from)

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            server.append_logs(logs)

    return JournalStorage(Events())


def _public(place: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = place.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
