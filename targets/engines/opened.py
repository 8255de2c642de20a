"""A model that several steps of one build read, parsed and checked once."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from targets.onnxfile import Stored, open_onnx, open_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

_Key = tuple[str, int, int, int]
_HELD: Final[ContextVar[dict[_Key, Stored] | None]] = ContextVar("_HELD", default=None)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within it, `parsed` and `stored` read each file once and hold it until the end."""
    token = _HELD.set({}) if _HELD.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _HELD.reset(token)


def parsed(path: Path) -> onnx.ModelProto:
    """What `open_onnx` gives for ``path``; not to be changed by the caller.

    Raises:
        InputError: It is no model that `open_onnx` takes.
        RefusedError: Its external data lie outside its folder.
    """
    found = stored(path)
    return open_onnx(path) if found.outside else found.model


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
    if key not in held:
        held[key] = open_stored(path)
    return held[key]
