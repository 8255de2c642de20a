"""Limited child processes: everything risky runs in one, with limits on time, memory and files."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from targets import forkserver
from targets.errors import EnvironmentFailure, error_from_json
from targets.files import disk_guard, megabytes, remove_tree
from targets.limits import ChildResult, Limits, untrusted
from targets.supervised import start
from targets.telling import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["ChildResult", "Limits", "call_limited", "run_limited", "untrusted"]

_log = logging.getLogger(__name__)

_MAX_RESPONSE_BYTES: Final = 256 << 20
_STDOUT_LIMIT_BYTES: Final = 16 << 20
_NO_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({})


def run_limited(
    argv: Sequence[str],
    *,
    limits: Limits,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] = _NO_ENVIRONMENT,
    stdout_limit_bytes: int = _STDOUT_LIMIT_BYTES,
) -> ChildResult:
    """Runs a program in a session and process group of its own and waits for it.

    It has no standard input, a small allowed part of our environment plus ``env``, and private empty folders as home,
    TMPDIR and (unless ``cwd`` is given) working folder, removed at the end. When it ends, or time is up, or an
    exception (Ctrl-C too) comes here, all that came from it is ended, in whatever session it hides; when we die, too.

    Args:
        argv: Program (found on PATH) and arguments.
        limits: What it may use.
        what: What it does, as a noun, for messages: ``calibration of 'model.onnx'``.
        cwd: Working folder.
        env: Variables it gets on top of the allowed ones.
        stdout_limit_bytes: The most it may write to each of stdout and stderr.

    Raises:
        EnvironmentFailure: Out of time, out of memory, too much output, a too large file, or it cannot be started.
            Any other exit status is the caller's to judge.
    """
    with _private_folder() as folder:
        return _run(argv, limits, what, cwd, env, stdout_limit_bytes, folder)


def call_limited(
    function: str,
    request: Mapping[str, object],
    *,
    limits: Limits,
    what: str,
    hear: Callable[[Mapping[str, Any]], None] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] = _NO_ENVIRONMENT,
) -> dict[str, object]:
    """Calls ``package.module:function`` (dict in, dict out) in a limited child; JSON files carry both ways.

    The child is Python with ``-I``: neither the working folder nor PYTHONPATH is searched for modules.

    Args:
        function: What to call.
        request: What it gets; with ``hear`` also ``tell``, the path for a `targets.telling.Teller`.
        limits: What it may use.
        what: What it does, as a noun, for messages.
        hear: Called with what the function tells while it works.
        cwd: Working folder; an empty one of its own by default.
        env: Variables it gets on top of the allowed ones.

    Raises:
        EdgepressError: As raised by the function, or EnvironmentFailure as by `run_limited`.
        EnvironmentFailure: A signal ended it: a native library crashed.
        RuntimeError: The function failed in any other way, which is our own bug; holds the child's traceback.
    """
    with _private_folder() as folder, contextlib.ExitStack() as stack:
        source, answer, pipe = folder / "request.json", folder / "response.json", folder / "told"
        told = None if hear is None else stack.enter_context(Listener(pipe, hear))
        sent = {**request} if told is None else {**request, "tell": str(pipe)}
        with disk_guard(f"writing the request for {what}", path=folder):
            source.write_text(json.dumps(sent, allow_nan=False), encoding="utf-8")
        result = _call((function, source, answer), limits, what, cwd, env, folder, told)
        stderr = result.stderr.decode(errors="replace")
        _log.debug("%s: exit %d, stderr: %s", what, result.returncode, stderr)
        if result.returncode < 0 and not stderr.startswith("Traceback"):
            raise _crashed(what, signal.Signals(-result.returncode).name)
        if result.returncode != 0 or not answer.is_file():
            raise RuntimeError(f"{what} ended with exit status {result.returncode} in {function}\n{stderr}")
        answered = _read_answer(answer, function)
        forkserver.needs(answered.get("loaded", ()))
        return _result(answered, function)


def _call(
    call: tuple[str, Path, Path],
    limits: Limits,
    what: str,
    cwd: Path | None,
    env: Mapping[str, str],
    folder: Path,
    told: Listener | None,
) -> ChildResult:
    """In a fork of what is loaded already, where there is such a server, or in a new Python."""
    place, private = cwd or folder / "cwd", _private(folder)
    child = None if env else forkserver.forked(call, limits=limits, cwd=place, env=private, mark=folder.name)
    if child is not None:
        return child.wait(limits, what, stdout_limit_bytes=_STDOUT_LIMIT_BYTES, told=told)
    argv = [sys.executable, "-I", "-m", "targets.child", "call", *map(str, call)]
    return _run(argv, limits, what, cwd, env, _STDOUT_LIMIT_BYTES, folder, told)


def _crashed(what: str, name: str) -> EnvironmentFailure:
    """A signal ended the child: code of a native library failed, which Python cannot catch."""
    return EnvironmentFailure(
        f"{what} crashed ({name})",
        "the code that failed is a native library's, most likely that of the engine's runtime",
        "leave that engine out of [build] candidates, or install another version of its runtime",
    )


def _read_answer(path: Path, function: str) -> dict[str, Any]:
    if path.stat().st_size > _MAX_RESPONSE_BYTES:
        raise RuntimeError(f"{function} answered with over {megabytes(_MAX_RESPONSE_BYTES)}; large results go to files")
    answer: dict[str, Any] = json.loads(path.read_bytes())
    return answer


def _result(answer: Mapping[str, Any], function: str) -> dict[str, object]:
    if "error" in answer:
        raise error_from_json(answer["error"])
    result = answer["result"]
    if not isinstance(result, dict):
        raise TypeError(f"{function} must return a dict, not {type(result).__name__}")
    return result


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    import tempfile  # heavy: only those who start a child pay for it

    with disk_guard("making a private folder for a child process"):
        folder = Path(tempfile.mkdtemp(prefix="edgepress-"))
        for name in ("cwd", "home", "tmp"):
            (folder / name).mkdir()
    try:
        yield folder
    finally:
        with disk_guard(f"removing the private folder {folder}"):
            remove_tree(folder)


def _private(folder: Path) -> dict[str, str]:
    return {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home")}


def _run(
    argv: Sequence[str],
    limits: Limits,
    what: str,
    cwd: Path | None,
    env: Mapping[str, str],
    stdout_limit_bytes: int,
    folder: Path,
    told: Listener | None = None,
) -> ChildResult:
    started = start(
        argv, what=what, limits=limits, cwd=cwd or folder / "cwd", env={**_private(folder), **env}, mark=folder.name
    )
    return started.wait(limits, what, stdout_limit_bytes=stdout_limit_bytes, told=told)
