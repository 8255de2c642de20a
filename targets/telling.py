"""What a limited child tells while it works: JSON lines through a named pipe, which its own children may hold, too."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CHUNK_BYTES: Final = 1 << 16


@final
class Teller(AbstractContextManager["Teller"]):
    """The child's end.

    Args:
        path: Of the pipe, as the request names it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Tells one thing; waits while the parent is busy."""
        self._file.write(json.dumps(dict(message), allow_nan=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def teller_of(request: Mapping[str, Any]) -> AbstractContextManager[Callable[[Mapping[str, Any]], None]]:
    """What a child tells with: the `Teller` of its request, or nobody where nothing listens."""
    return Teller(Path(str(request["tell"]))) if "tell" in request else nullcontext(lambda _: None)


@final
class Listener(AbstractContextManager["Listener"]):
    """The parent's end.

    Args:
        path: Where to make the pipe.
        hear: Called with each message, in order.
    """

    def __init__(self, path: Path, hear: Callable[[Mapping[str, Any]], None]) -> None:
        os.mkfifo(path, 0o600)
        self._hear, self._rest = hear, b""
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # to write, too: so it never ends between writers

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor

    def take(self) -> None:
        """Hears whatever has been told, without waiting."""
        while True:
            try:
                data = os.read(self._descriptor, _CHUNK_BYTES)
            except BlockingIOError:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
