"""A Python kept ready: what most children load is loaded in it before there is a call for it.

Loading numpy, onnx, pydantic and the runtime takes a child longer than most builds of an engine. So within
`child_kept_ready` the next child is started when a call ends, and waits: a call of `targets.process.call_limited` that
finds it there saves that time. Each call still has a process of its own, with its own limits, that ends with it. What
is measured never shares the machine with a child that is loading: `settle` waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.child import HEAVY
from targets.errors import EdgepressError
from targets.limits import Limits
from targets.supervised import Supervised, inherited

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LOADED: Final = (
    "targets.profile", "targets.engines.child", "targets.engines.onnxruntime", "onnx",
    "targets.ondevice.session:import_runtime",
)  # fmt: skip
_NOWHERE: Final = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
_PATIENCE_S: Final = 20.0


@contextlib.contextmanager
def child_kept_ready() -> Iterator[None]:
    """Within it, calls of this thread after the first find a child that has loaded what it needs.

    A child belongs to the thread that starts it: the kernel ends it with that thread. So calls of other threads, and of
    processes forked from this one, start children of their own.
    """
    global _KEEPER  # noqa: PLW0603  # one a process, whoever asks
    if _KEEPER is not None and _KEEPER.is_of_this_process():
        yield
        return
    keeper = _KEEPER = _Keeper()
    try:
        yield
    finally:
        _KEEPER = None
        keeper.close()


def take() -> ReadyChild | None:
    """The child that is ready, for one call; None where none is kept, or its environment is of the past."""
    return None if _KEEPER is None else _KEEPER.take()


def prepare(needed: Iterable[str] = ()) -> None:
    """Starts the next child where one is kept; it is no error when that fails.

    Args:
        needed: What the last child had to load (of `targets.child.HEAVY`): later ones load it beforehand.
    """
    if _KEEPER is not None:
        _KEEPER.prepare(needed)


def settle() -> None:
    """Waits until a child that is loading has loaded, so that what follows has the machine to itself."""
    if _KEEPER is not None:
        _KEEPER.settle()


@final
class ReadyChild:
    """One Python that waits for a call.

    Args:
        loaders: What it loads, as `targets.child.wait_for_call` takes it.

    Raises:
        EnvironmentFailure: It cannot be started.
    """

    def __init__(self, loaders: Iterable[str]) -> None:
        self.inherited = inherited()
        self._line, far = socket.socketpair()
        argv = [sys.executable, "-I", "-m", "targets.child", "wait", str(far.fileno()), *loaders]
        try:
            self.process = Supervised(
                argv, what="a child for later", limits=Limits(timeout_s=0), cwd=Path("/"), env=_NOWHERE,
                mark=f"ready-{os.getpid()}-{time.monotonic_ns()}", pass_fds=[far.fileno()],
            )  # fmt: skip
        except BaseException:
            self._line.close()
            raise
        finally:
            far.close()

    def has_loaded(self) -> bool:
        """Waits until it has loaded all; False when it has ended instead."""
        try:
            ready, _, _ = select.select([self._line], [], [], _PATIENCE_S)
            return bool(ready) and self._line.recv(1, socket.MSG_PEEK) != b""
        except (OSError, ValueError):
            return False

    def order(
        self, function: str, request: Path, response: Path, *, limits: Limits, cwd: Path, env: Mapping[str, str]
    ) -> bool:
        """Has it call ``function`` as `targets.child.call_function` does; False when it is gone.

        Args:
            function: ``package.module:function``.
            request: JSON file it reads.
            response: JSON file it writes.
            limits: What it may use from now on.
            cwd: Its working folder.
            env: Variables it gets.
        """
        self.process.begin_now()
        call = {
            "function": function, "request": str(request), "response": str(response), "cwd": str(cwd),
            "env": dict(env), "memory_bytes": limits.memory_bytes or 0, "file_bytes": limits.file_bytes or 0,
        }  # fmt: skip
        try:
            self._line.sendall(json.dumps(call).encode() + b"\n")
        except OSError:
            return False
        finally:
            self._line.close()
        return True

    def end(self) -> None:
        """Ends it, unused."""
        self._line.close()
        self.process.end()


@final
class _Keeper:
    def __init__(self) -> None:
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._child: ReadyChild | None = None
        self._loaders = dict.fromkeys(_LOADED)
        self._lock = threading.Lock()

    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def take(self) -> ReadyChild | None:
        if not self._is_mine():
            return None
        with self._lock:
            child, self._child = self._child, None
        if child is None or (child.inherited == inherited() and child.has_loaded()):
            return child
        child.end()
        return None

    def prepare(self, needed: Iterable[str]) -> None:
        if self._is_mine() and self._child is None:
            self._loaders |= dict.fromkeys(HEAVY[name] for name in needed if name in HEAVY)
            with contextlib.suppress(EdgepressError, OSError):
                self._child = ReadyChild(self._loaders)

    def settle(self) -> None:
        if self.is_of_this_process():
            with self._lock:
                if self._child is not None:
                    self._child.has_loaded()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None and self._is_mine():
            child.end()

    def _is_mine(self) -> bool:
        return self.is_of_this_process() and self._thread == threading.get_ident()


_KEEPER: _Keeper | None = None
