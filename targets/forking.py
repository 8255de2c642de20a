"""The far side of `targets.forkserver`: loads modules once, and forks a supervised child for each call.

Started by it only::

    python -I -m targets.forking SOCKET LOADER ...

Each message on the socket is one JSON object. ``{"reap": PID}`` is answered with the exit status of a supervisor. Any
other is a call (`targets.forkserver.ForkServer.call`), with three descriptors for stdout, stderr and the report; it is
answered with the supervisor's process id. This process does nothing else, so that what is forked is always the same.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
import tempfile
import traceback
from typing import TYPE_CHECKING, Any, Final

from targets.child import LIMIT_FAILED, call_function, complain, limit, supervise_call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MESSAGE_BYTES: Final = 1 << 16
"""The longest message."""

_DESCRIPTORS: Final = 3


def serve(descriptor: int, loaders: Sequence[str]) -> int:
    """Answers one message after the other until the other side closes the socket.

    Args:
        descriptor: A socket that keeps messages apart.
        loaders: Modules to load, or ``module:function`` to call for it; what fails is left to the call that needs it,
            which tells why.
    """
    silent = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):  # nobody reads what libraries say while they load
        os.dup2(silent, number)
    load(loaders)
    with socket.socket(fileno=descriptor) as line:
        while True:
            data, descriptors, _, _ = socket.recv_fds(line, MESSAGE_BYTES, _DESCRIPTORS)
            if not data:
                return 0
            message = json.loads(data)
            if "reap" in message:
                status = os.waitstatus_to_exitcode(os.waitpid(message["reap"], 0)[1])
                line.sendall(b"%d" % status)
                continue
            load(message["loaders"])
            server = os.getpid()
            pid = os.fork()
            if pid == 0:
                status = LIMIT_FAILED
                try:
                    line.close()
                    status = _supervised(message, descriptors, server)
                except BaseException:  # noqa: BLE001  # a fork must never go on as its parent would
                    traceback.print_exc()
                finally:
                    os._exit(status)
            for number in descriptors:
                os.close(number)
            line.sendall(b"%d" % pid)


def load(loaders: Sequence[str]) -> None:
    """Loads modules; see `serve`."""
    for loader in loaders:
        module, _, function = loader.partition(":")
        with contextlib.suppress(Exception):
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()
    sys.stdout.flush()
    sys.stderr.flush()


def _supervised(message: Mapping[str, Any], descriptors: Sequence[int], server: int) -> int:
    """Becomes a supervisor with a session of its own, and its child calls the function."""
    os.setsid()
    stdout, stderr, report = descriptors
    for number, target in ((stdout, 1), (stderr, 2)):
        os.dup2(number, target)
        os.close(number)
    os.chdir(message["cwd"])
    os.environ.clear()
    os.environ.update(message["env"])
    tempfile.tempdir = None  # whoever asked before, asked before there was one
    return supervise_call(report, server, lambda: _call(message))


def _call(message: Mapping[str, Any]) -> int:
    try:
        limit(message["memory_bytes"], message["file_bytes"])
    except (OSError, ValueError) as error:
        return complain(LIMIT_FAILED, f"cannot set the limits: {error}")
    return call_function(message["function"], message["request"], message["response"])


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1]), sys.argv[2:]))
