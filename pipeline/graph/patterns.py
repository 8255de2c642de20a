"""Names of modules in a recipe: paths or globs, near names when nothing is called so."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from targets.errors import Fault, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def matches(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that a pattern (``stem``, ``layer1.*``, ``*.conv2``) stands for, in their order."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def covers(pattern: str, path: str) -> bool:
    """Whether a pattern stands for a module or for one that it lies in: a path covers all below it."""
    parts = path.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))


def unknown_faults(where: str, patterns: Sequence[str], names: Iterable[str], what: str) -> list[Fault]:
    """One fault for each pattern that stands for none of ``names``; ``what`` says what these are."""
    known = sorted(set(names))
    return [
        Fault(where=where, what=f"no {what} is called {pattern!r}", fix=nearest(pattern, known))
        for pattern in dict.fromkeys(patterns)
        if not any(covers(pattern, name) for name in known)
    ]
