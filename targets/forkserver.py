"""A fork server for limited children: what most of them load is loaded once a run.

Loading numpy, onnx, pydantic and a runtime takes a child longer than most builds of an engine. Within `fork_server`
one process loads them at the first call of `targets.process.call_limited`, and each call gets a fork of it: a process
of its own, with its own session, limits, environment and end. The server itself never runs a call, so that no call
finds what an earlier one left.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.child import HEAVY
from targets.errors import EdgepressError
from targets.forking import MESSAGE_BYTES
from targets.limits import Limits
from targets.supervised import Ends, Supervised, environment, inherited, pipes, readable, start

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LOADERS: Final = (
    "targets.profile", "targets.engines.child", "targets.engines.onnxruntime", "onnx",
    "targets.ondevice.session:import_runtime",
)  # fmt: skip
_NOWHERE: Final = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
_PATIENCE_S: Final = 60.0
_LEAST_PATIENCE_S: Final = 5.0
_ANSWER_BYTES: Final = 64


@contextlib.contextmanager
def fork_server() -> Iterator[None]:
    """Within it, limited calls of this thread are forks of one process that has loaded what they need.

    It belongs to this thread: the kernel ends it with it. So calls of other threads, and of processes forked from this
    one, start Pythons of their own, as all do outside of it.
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


def forked(
    call: tuple[str, Path, Path], *, limits: Limits, cwd: Path, env: Mapping[str, str], mark: str
) -> Supervised | None:
    """A child that does ``call`` (function, request and response, as `targets.child.call_function` takes them).

    Args:
        call: What it does.
        limits: Limits of memory and files.
        cwd: Working folder.
        env: Variables it gets on top of the inherited ones.
        mark: As for `targets.supervised.start`.

    Returns:
        None where there is no server for this thread, or none could be had: the caller starts a child of its own.
    """
    keeper = _KEEPER
    server = None if keeper is None else keeper.server()
    if keeper is None or server is None:
        return None
    child = server.call(call, limits=limits, cwd=cwd, env=env, mark=mark, loaders=keeper.loaders)
    keeper.given_up = keeper.given_up or server.has_ended()  # one that did not answer: waiting once is enough
    return child


def needs(heavy: Iterable[str]) -> None:
    """Has later calls find loaded what this one had to load (names of `targets.child.HEAVY`)."""
    if _KEEPER is not None:
        _KEEPER.loaders |= dict.fromkeys(HEAVY[name] for name in heavy if name in HEAVY)


@final
class ForkServer:
    """The near side of `targets.forking`.

    Raises:
        EnvironmentFailure: It cannot be started.
    """

    def __init__(self) -> None:
        self.inherited = inherited()
        self._mark = f"server-{os.getpid()}-{time.monotonic_ns()}"
        self._over = False
        self._line, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-I", "-m", "targets.forking", str(far.fileno()), *_LOADERS]
        try:
            self.process = start(
                argv, what="a server of children", limits=Limits(timeout_s=0), cwd=Path("/"), env=_NOWHERE,
                mark=self._mark, pass_fds=[far.fileno()],
            )  # fmt: skip
        except BaseException:
            self._line.close()
            raise
        finally:
            far.close()

    def call(
        self,
        call: tuple[str, Path, Path],
        *,
        limits: Limits,
        cwd: Path,
        env: Mapping[str, str],
        mark: str,
        loaders: Iterable[str] = (),
    ) -> Supervised | None:
        """A fork that does ``call``; None when there cannot be one. As `forked`."""
        function, request, response = call
        message = json.dumps({
            "function": function, "request": str(request), "response": str(response), "cwd": str(cwd),
            "env": environment(env, mark), "memory_bytes": limits.memory_bytes or 0,
            "file_bytes": limits.file_bytes or 0, "loaders": [*loaders],
        }).encode()  # fmt: skip
        if len(message) > MESSAGE_BYTES or not cwd.is_dir():
            return None
        with contextlib.suppress(OSError), pipes() as ((out, err, report), writing):
            pid = self._answer(message, writing, min(_PATIENCE_S, max(limits.timeout_s, _LEAST_PATIENCE_S)))
            if pid is None or pid <= 1:
                raise ChildProcessError("no fork")  # for `pipes`, which closes its ends
            ends, reap = Ends(pid=pid, stdout=out, stderr=err, report=report), functools.partial(self._reap, pid)
            try:
                return Supervised(ends, reap=reap, marks=(mark, self._mark), start_s=time.monotonic())
            except BaseException:
                self.end()
                raise
        return None

    def has_ended(self) -> bool:
        """Whether it serves no more."""
        return self._over or self.process.has_ended()

    def end(self) -> None:
        """Ends it, and whatever came from it; once."""
        if not self._over:
            self._over = True
            self._line.close()
            self.process.end()

    def _reap(self, pid: int) -> int:
        status = self._answer(json.dumps({"reap": pid}).encode(), (), _LEAST_PATIENCE_S)
        return -signal.SIGKILL if status is None else status  # with the server, its children are killed

    def _answer(self, message: bytes, descriptors: tuple[int, ...], patience_s: float) -> int | None:
        """What it answers; where it does not, it is ended: a late answer would be taken for that of another message."""
        try:
            socket.send_fds(self._line, [message], descriptors)
            if readable(self._line.fileno(), patience_s) and (answer := self._line.recv(_ANSWER_BYTES)):
                return int(answer)
        except (OSError, ValueError):
            pass
        except BaseException:  # Ctrl-C between question and answer
            self.end()
            raise
        self.end()
        return None


@final
class _Keeper:
    def __init__(self) -> None:
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._server: ForkServer | None = None
        self.loaders: dict[str, None] = {}
        self.given_up = False

    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def server(self) -> ForkServer | None:
        """The one that serves, or a new one."""
        if self.given_up or not self._is_mine():
            return None
        if self._server is not None and (self._server.has_ended() or self._server.inherited != inherited()):
            self.close()
        if self._server is None:
            with contextlib.suppress(EdgepressError, OSError):
                self._server = ForkServer()
        return self._server

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None and self._is_mine():
            server.end()

    def _is_mine(self) -> bool:
        return self.is_of_this_process() and self._thread == threading.get_ident()


_KEEPER: _Keeper | None = None
