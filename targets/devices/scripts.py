"""The shell scripts that run on a remote device: POSIX sh and the few tools that BusyBox and Android have, too."""

from __future__ import annotations

from shlex import join, quote
from typing import TYPE_CHECKING, Final

from targets.devices.answers import MAX_ANSWER_BYTES, MAX_STDERR_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMING_CACHE: Final = "EDGEPRESS_TIMING_CACHE"
"""Tells the device program where kernel times outlive a session."""

NO_FOLDER: Final = 91
NO_PYTHON: Final = 92
OLD_PYTHON: Final = 93
NOT_WRITTEN: Final = 94
NO_STATUS: Final = 95
GONE: Final = 96
STILL_RUNS: Final = 97
DIFFERS: Final = 98


def begin(folder: str, python: str, program: str) -> str:
    """Makes our folder, checks Python; prints the folder's real path, then the sha256 of the program there, if any."""
    old = f"{quote(python)} -I -c 'import sys; sys.exit(sys.version_info < (3, 8))'"
    return "\n".join(
        [
            "umask 077",
            f"mkdir -p {quote(folder)}/program && cd {quote(folder)} && pwd -P || exit {NO_FOLDER}",
            f"command -v {quote(python)} >/dev/null 2>&1 || exit {NO_PYTHON}",
            f"{old} >/dev/null 2>&1 || exit {OLD_PYTHON}",
            f"if [ -f {quote(program)} ]; then {_sha256(program, python)}; fi",
        ]
    )


def accept(folder: str, temporary: str, name: str, sha256: str, python: str) -> str:
    """Gives a file that has arrived its name, if it is the one that was sent."""
    parent = name.rpartition("/")[0] or "."
    return "\n".join(
        [
            f"cd {quote(folder)} || exit {NO_FOLDER}",
            f"sum=$({_sha256(temporary, python)})",
            f'[ "$sum" = {sha256} ] || {{ rm -f {quote(temporary)}; exit {DIFFERS}; }}',
            f"mkdir -p {quote(parent)} && mv -f {quote(temporary)} {quote(name)} || exit {NOT_WRITTEN}",
        ]
    )


def discard(folder: str, temporary: str) -> str:
    """Removes half a file, and prints what `df` says of its disk, in units of 1024 bytes."""
    return f"cd {quote(folder)} && rm -f {quote(temporary)} && df -Pk . | tail -n 1"


def direct(folder: str, argv: Sequence[str]) -> str:
    """Runs a short command whose answer may be lost with the connection."""
    return f"cd {quote(folder)} || exit {NO_FOLDER}\nexec {join(argv)} </dev/null"


def run(folder: str, argv: Sequence[str], mark: str, timing: str) -> str:
    """Runs a program whose answer stays there in files when the connection breaks, then prints them.

    ``timing`` is the folder for kernel times, where that device's own environment names none.
    The program's process id is in ``.run-<mark>.pid`` while it runs; ``.run-<mark>.status`` comes last.
    """
    return "\n".join(
        [
            f"cd {quote(folder)} || exit {NO_FOLDER}",
            "umask 077",
            "rm -f .run-*",
            f'[ -n "${TIMING_CACHE}" ] || {TIMING_CACHE}={quote(timing)}',
            f"export {TIMING_CACHE}",
            "trap '' HUP",
            f"(exec {join(argv)} </dev/null >.run-{mark}.out 2>.run-{mark}.err) &",
            f"echo $! >.run-{mark}.pid",
            "wait $!",
            f"echo $? >.run-{mark}.part && mv -f .run-{mark}.part .run-{mark}.status || exit {NOT_WRITTEN}",
            _print(mark),
        ]
    )


def find(folder: str, program: str, mark: str, wait_s: int) -> str:
    """Waits for the files of `run` and prints them, after the connection broke in between.

    What still runs after that is ended, if it is the program.
    """
    missing = f"[ ! -e .run-{mark}.status ]"
    end = f'grep -q {quote(program)} "/proc/$pid/cmdline" && kill -9 "$pid"'
    return "\n".join(
        [
            f"cd {quote(folder)} || exit {GONE}",
            "i=0",
            f"while {missing}; do",
            f'  pid=$(cat .run-{mark}.pid 2>/dev/null) && kill -0 "$pid" 2>/dev/null || {{',
            f"    sleep 1; {missing} && exit {GONE}; break; }}",
            f"  if [ $i -ge {wait_s} ]; then {end}; exit {STILL_RUNS}; fi",
            "  i=$((i+1)); sleep 1",
            "done",
            _print(mark),
        ]
    )


def _print(mark: str) -> str:
    """One line ``status bytes-of-stdout``, then at most so much of stdout and the end of stderr."""
    out, err = f".run-{mark}.out", f".run-{mark}.err"
    return "\n".join(
        [
            f"read -r status <.run-{mark}.status || exit {NO_STATUS}",
            f'echo "$status" $(wc -c <{out})',
            f"head -c {MAX_ANSWER_BYTES + 1} {out}",
            f"tail -c {MAX_STDERR_BYTES} {err}",
        ]
    )


def _sha256(path: str, python: str) -> str:
    """A command that prints a file's sha256."""
    code = "import hashlib,sys;print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    other = f"{quote(python)} -I -c {quote(code)} <{quote(path)}"
    return f"if command -v sha256sum >/dev/null; then sha256sum <{quote(path)}; else {other}; fi | cut -c1-64"
