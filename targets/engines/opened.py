"""A model that several steps of one build read, parsed and checked once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from targets import onnxfile
from targets.engines.onnxweights import Graph, weights_bytes
from targets.errors import InputError
from targets.onnxfile import Stored, open_graph, open_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

_Key = tuple[str, int, int, int]


class _Held:
    """Models by file, and the checks of their numbers, which run beside the work."""

    def __init__(self) -> None:
        self.models: dict[_Key, Stored] = {}
        self.checks: list[Future[None]] = []
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="values")


_HELD: Final[ContextVar[_Held | None]] = ContextVar("_HELD", default=None)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within it, `stored` reads each file once and holds it until the end; by then all numbers in it are checked.

    What a model is, is checked before anyone gets it: its numbers may be looked at meanwhile, since nothing counts
    that was made within until the end is reached. What is wrong with them outdoes any other failure.

    Raises:
        InputError: A tensor does not fit its shape and type, or holds NaN or Inf.
    """
    if _HELD.get() is not None:
        yield
        return
    held = _Held()
    token = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(token)
        with held.thread:
            for check in held.checks:
                check.result()


def values_checked() -> None:
    """Waits until the numbers of everything that was read within `parsed_once` are checked.

    Raises:
        InputError: As for `parsed_once`.
    """
    held = _HELD.get()
    for check in held.checks if held is not None else ():
        check.result()


def in_one_file(path: Path) -> Stored:
    """What `stored` gives, for an engine whose file holds all of it.

    Raises:
        InputError: As for `stored`, or its weights are too large for one file.
        RefusedError: As for `stored`.
    """
    found = stored(path)
    size = weights_bytes(Graph(path=path, model=found.model))
    if size > onnxfile.ONE_FILE_BYTES:
        raise InputError(
            f"the weights of {path.name} are too large", f"{size} bytes, one file ends at 2 GiB", "use a smaller model"
        )
    return found


def stored(path: Path) -> Stored:
    """What `open_stored` gives for ``path``; not to be changed by the caller.

    Raises:
        InputError: It is no model that `open_stored` takes.
        RefusedError: Its external data lie outside its folder.
    """
    held = _HELD.get()
    if held is None or not path.exists():
        return open_stored(path)
    found = path.stat()
    key = (str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in held.models:
        held.models[key] = open_graph(path)
        held.checks.append(held.thread.submit(held.models[key].check_values))
    return held.models[key]
