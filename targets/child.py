"""The far side of a process border: supervises a limited program, or calls one function.

Two ways in, both started by `targets.supervised` only; `targets.forking` calls the same functions::

    python -I -S child.py supervise REPORT PARENT MEMORY FILE PROGRAM [ARGUMENT ...]
    python -I -m targets.child call MODULE:FUNCTION REQUEST RESPONSE                   JSON file in, JSON file out

The supervisor sets limits after its own fork, as doing so between fork and exec of a parent with threads is unsafe; it
measures memory, because the kernel charges the peak of a forking parent to its direct child; and it ends all that came
from its child, whatever group or session that moved to: at the child's end, when it is told to, and when the parent
dies, however the parent dies. It imports little, so that it costs about 20 ms.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_FAILED = 125
"""Exit status when the limits cannot be set."""
NOT_STARTED = 127
"""Exit status when the program cannot be started."""
UNLIMITED = 0
HEAVY = {"onnx_ir": "onnx_ir", "openvino": "targets.ondevice.openvino_module:import_openvino"}
"""Modules that only some calls need and that take long to load, and how each is loaded."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 1.5
_SURE = 2


def supervise(report: int, parent: int, memory_bytes: int, file_bytes: int, argv: list[str]) -> int:
    """Runs ``argv`` as the only child of this process, and tells how it ended.

    Args:
        report: File descriptor that gets one line: the wait status and the peak memory in kB.
        parent: Process id of our parent; when it dies, this whole process group dies.
        memory_bytes: Limit of the address space (RLIMIT_AS), 0 for none.
        file_bytes: Limit of the size of each file written (RLIMIT_FSIZE), 0 for none.
        argv: Program, found on PATH, and its arguments.
    """
    return supervise_call(report, parent, lambda: _become(argv, memory_bytes, file_bytes))


def supervise_call(report: int, parent: int, work: Callable[[], int]) -> int:
    """Has a forked child do ``work`` and end with the status it gives; else as `supervise`."""
    import signal

    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whoever is orphaned below us becomes our child, so that none escapes us
    signal.signal(signal.SIGUSR1, lambda *_: _kill_below())
    _signal_at_death_of(parent, signal.SIGUSR1)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(report)
        os._exit(_working(supervisor, work))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group is asked to end; we stay to report
    ended = 0
    while ended != pid:  # orphans end too: they are reaped, and not what we wait for
        ended, status, usage = os.wait4(-1, 0)
    try:
        os.write(report, b"%d %d\n" % (status, usage.ru_maxrss))
    except OSError:  # nobody reads it any more: the parent died
        return LIMIT_FAILED
    finally:
        _kill_below()
    return 0


def _kill_below() -> None:
    """Kills all that came from this process until nothing is left; what forks meanwhile becomes our child, and dies."""
    import signal
    import time

    patience_s = time.monotonic() + _PATIENCE_S
    empty = 0
    while empty < _SURE and time.monotonic() < patience_s:  # one look may miss whoever changes its parent meanwhile
        below = _descendants(os.getpid())
        empty = 0 if below else empty + 1
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def _descendants(ancestor: int) -> list[int]:
    """The living processes that came from ``ancestor``; a zombie is none, but may lead to some."""
    children: dict[int, list[int]] = {}
    dead = set()
    for name in os.listdir("/proc"):  # noqa: PTH208  # names are numbers here
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123  # pathlib would double the start
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(name))
        if state in {b"Z", b"X"}:
            dead.add(int(name))
    found: list[int] = []
    pending = [ancestor]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return [pid for pid in found if pid not in dead]


def _working(supervisor: int, work: Callable[[], int]) -> int:
    """Does ``work`` as a child that dies with its supervisor; the exit status, after a traceback where it failed."""
    import signal

    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        _signal_at_death_of(supervisor, signal.SIGKILL)
        return work()
    except BaseException:  # noqa: BLE001  # a fork must never go on as its parent would
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _become(argv: list[str], memory_bytes: int, file_bytes: int) -> int:
    """Limits this process and becomes ``argv``; returns an exit status only when that fails."""
    import resource
    import signal

    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and a program would inherit that
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit(memory_bytes, file_bytes)
    except (OSError, ValueError) as error:
        return complain(LIMIT_FAILED, f"cannot set the limits: {error}")
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # an argument list; there is no shell
    except OSError as error:
        return complain(NOT_STARTED, f"cannot start {argv[0]!r}: {error.strerror}")


def limit(memory_bytes: int, file_bytes: int) -> None:
    """Limits the address space of this process and the size of its files; 0 for no limit."""
    import resource

    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if memory_bytes:  # last: it holds for us too
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def call_function(function: str, request: str, response: str) -> int:
    """Calls ``package.module:function`` with the object in one file and writes its answer to the other.

    The answer is ``{"result": ...}``, or ``{"error": ...}`` for an EdgepressError; with ``loaded``, which of the heavy
    modules it needed. Anything else that is raised is our own bug: it leaves a traceback on stderr and no answer.
    """
    import importlib
    import json
    from pathlib import Path

    from targets.errors import EdgepressError
    from targets.files import DISK_FAULTS, disk_guard

    module, _, name = function.partition(":")
    argument = json.loads(Path(request).read_bytes())
    answer: dict[str, object]
    try:
        with disk_guard("writing a stage's files", only=DISK_FAULTS):
            answer = {"result": getattr(importlib.import_module(module), name)(argument)}
    except EdgepressError as error:
        answer = {"error": error.to_json()}
    answer["loaded"] = [name for name in HEAVY if name in sys.modules]
    Path(response).write_text(json.dumps(answer, allow_nan=False), encoding="utf-8")
    return 0


def _signal_at_death_of(parent: int, number: int) -> None:
    """Asks the kernel to send this process a signal when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        os._exit(LIMIT_FAILED)


def _prctl(option: int, value: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def complain(status: int, message: str) -> int:
    """Says on stderr why nothing was started; gives the exit status that says so."""
    os.write(2, f"{message}\n".encode())
    return status


def main(argv: list[str]) -> int:
    """Dispatches the ways in; see the module."""
    if argv[0] == "supervise":
        report, parent, memory_bytes, file_bytes = (int(word) for word in argv[1:5])
        return supervise(report, parent, memory_bytes, file_bytes, argv[5:])
    return call_function(*argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
