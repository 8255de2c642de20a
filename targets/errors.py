"""The one exception tree, drawn here and built below.

::

    EdgepressError                 exit code
    ├── UsageError                 2    the command line asks for something that is not there
    ├── InputError                 3    recipe, model, weights, data or profile are wrong (the user can mend them)
    ├── RefusedError               4    refused for security
    ├── EnvironmentFailure         5    disk, memory, permission, time: the machine cannot do it now
    │   └── DiskFailure            5    the disk is full, read-only or broken
    ├── DeviceError                6    the target device or its runtime failed
    │   └── DeviceLost             6    the device stopped answering in mid-work
    ├── BudgetError                7    everything worked, and nothing meets the budget
    └── Interrupted                130  SIGINT, or 143 for SIGTERM

Every error says what happened, why, and how to fix it. Anything else that escapes is our own bug (exit code 70).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

OWN_BUG_EXIT_CODE: Final = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong, found before any work was done.

    Attributes:
        where: Dotted path (``prune.ratio``), file or layer the fault is at.
        what: What is wrong with it, the offending value included.
        fix: What to write instead, and where.
    """

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.fix})" if self.where else f"{self.what} ({self.fix})"


class EdgepressError(Exception):
    """Root of everything this project raises on purpose.

    Attributes:
        what: What happened, one line.
        why: Why it happened, one line.
        fix: What the user can do about it, one line.
        faults: The single faults, where one error reports several.
    """

    exit_code: ClassVar[int] = OWN_BUG_EXIT_CODE

    def __init__(self, what: str, why: str, fix: str, *, faults: Sequence[Fault] = ()) -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return f"{self.what}\n{self.why}\n{self.fix}"

    def to_json(self) -> dict[str, object]:
        """The error as plain data, for ``--json`` and for crossing a process border."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "faults": [{"where": f.where, "what": f.what, "fix": f.fix} for f in self.faults],
        }


class UsageError(EdgepressError):
    """The command line asks for something that is not there."""

    exit_code = 2


class InputError(EdgepressError):
    """Recipe, model, weights, data or profile are wrong, and the user can mend them."""

    exit_code = 3


class RefusedError(EdgepressError):
    """Refused for security."""

    exit_code = 4


class EnvironmentFailure(EdgepressError):
    """Disk, memory, permission or time: this machine cannot do it now."""

    exit_code = 5


class DiskFailure(EnvironmentFailure):
    """The disk is full, read-only or broken, or a file may not be written: the next stage would meet it too."""


class DeviceError(EdgepressError):
    """The target device or its runtime failed."""

    exit_code = 6


class DeviceLost(DeviceError):
    """The device stopped answering in mid-work."""


class BudgetError(EdgepressError):
    """Everything worked, and nothing meets the budget."""

    exit_code = 7


class Interrupted(EdgepressError):
    """SIGINT or SIGTERM; finished stages stay in the store."""

    exit_code = 130


_MOST_ENTRIES: Final = 2000
_BY_NAME: Final[Mapping[str, type[EdgepressError]]] = {
    cls.__name__: cls
    for cls in (
        UsageError,
        InputError,
        RefusedError,
        EnvironmentFailure,
        DiskFailure,
        DeviceError,
        DeviceLost,
        BudgetError,
        Interrupted,
    )
}


def error_from_json(data: Mapping[str, object]) -> EdgepressError:
    """The error that `EdgepressError.to_json` described, of the same class."""
    faults = data.get("faults")
    return _BY_NAME.get(str(data.get("error")), EdgepressError)(
        str(data.get("what")),
        str(data.get("why")),
        str(data.get("fix")),
        faults=[
            Fault(where=str(f["where"]), what=str(f["what"]), fix=str(f["fix"]))
            for f in (faults if isinstance(faults, list) else [])
        ],
    )


def faults_error(subject: str, faults: Sequence[Fault]) -> InputError:
    """One error for all faults found in ``subject`` (a recipe, a profile); three lines when there is one."""
    if len(faults) == 1:
        fault = faults[0]
        return InputError(f"{subject} is not valid", f"{fault.where}: {fault.what}", fault.fix, faults=faults)
    return InputError(
        f"{subject} is not valid: {len(faults)} faults",
        "; ".join(f"{f.where}: {f.what}" for f in faults),
        "; ".join(dict.fromkeys(f.fix for f in faults)),
        faults=faults,
    )


def did_you_mean(name: str, choices: Iterable[str], *, inside: Path | None = None) -> str:
    """A question that names the nearest choices; empty when none is near.

    Args:
        name: What was written.
        choices: What it may be.
        inside: The folder they lie in, where they are files.
    """
    close = difflib.get_close_matches(name, sorted(choices), n=3, cutoff=0.5)
    shown = [repr(str(inside / c) if inside else c) for c in close]
    return f"did you mean {' or '.join(shown)}?" if shown else ""


def nearest_path(path: Path) -> str:
    """A question that names what lies where a path leads to nothing, and is spelt like it; empty when nothing is."""
    there, missing = path, ""
    try:
        while not there.exists() and there != there.parent:
            there, missing = there.parent, there.name
        found = [entry.name for entry in islice(there.iterdir(), _MOST_ENTRIES)]
    except OSError:
        return ""
    return did_you_mean(missing, found, inside=there)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint that names the nearest choices, or all of them when none is near."""
    known = sorted(choices)
    return did_you_mean(name, known) or f"known: {', '.join(known)}"
