"""The device program's border: one JSON document on stdout, one line for people on stderr, an end to every process."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from typing import Any

from . import VERSION
from .failure import ENVIRONMENT, OWN_BUG, Failure
from .options import echo_of, parse

_FULL = {errno.ENOSPC, errno.EDQUOT}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns 0, 2 usage, 3 input, 4 refused, 5 environment, 6 device or 70 own bug."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # numpy only prepares data here, and runs the sentinel
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    arguments = sys.argv[1:] if argv is None else argv
    # Native libraries may write to descriptor 1; only the JSON document goes there.
    sys.stdout.flush()
    answer = os.dup(1)
    os.dup2(2, 1)
    document: dict[str, Any] = {
        "program": "ondevice", "version": VERSION, "command": None, "nonce": echo_of(arguments),
    }  # fmt: skip
    try:
        code = _answer(arguments, document)
        text = json.dumps(document, allow_nan=False, sort_keys=True) + "\n"
        with os.fdopen(os.dup(answer), "w", encoding="utf-8") as stream:
            stream.write(text)
    finally:
        _end_after(0)
        sys.stdout.flush()
        os.dup2(answer, 1)
        os.close(answer)
    return code


def _answer(arguments: list[str], document: dict[str, Any]) -> int:
    try:
        options = parse(arguments)
        document.update(command=options.command, nonce=options.nonce)
        _end_after(options.limit_s)
        from .commands import run

        document["result"] = run(options)
    except Failure as failure:
        return _describe(document, failure)
    except MemoryError:
        why, fix = "an allocation failed", "free memory, raise the memory limit, or build a smaller engine"
        return _describe(document, Failure(ENVIRONMENT, "out of memory", why, fix))
    except Exception as error:  # noqa: BLE001 - the process border: even our own bug answers in JSON
        if isinstance(error, OSError) and error.errno in _FULL:
            why = "{} ({})".format(os.strerror(error.errno), error.filename or "while writing")
            return _describe(document, Failure(ENVIRONMENT, "the disk is full", why, "free space there and try again"))
        traceback.print_exc()
        document["error"] = {"what": "a bug in the device program", "why": repr(error)[:500], "fix": "report it"}
        return OWN_BUG
    return 0


def _describe(document: dict[str, Any], failure: Failure) -> int:
    document["error"] = {"what": failure.what, "why": failure.why, "fix": failure.fix}
    sys.stderr.write(f"FAILED: {failure.what}\n{failure.why}\n{failure.fix}\n")
    return failure.exit_code


def _end_after(limit_s: float) -> None:
    """Lets the kernel end this process after ``limit_s`` seconds, even inside C code; 0 takes the limit back."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a parent may have left it ignored or blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, limit_s)
    elif limit_s:
        import faulthandler

        faulthandler.dump_traceback_later(limit_s, exit=True)  # a thread of its own that needs no interpreter
