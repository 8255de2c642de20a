"""Paths of modules and parameters, and the patterns that users name them with."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from targets.errors import InputError, nearest


def with_parents(name: str) -> list[str]:
    """``a``, ``a.b`` and ``a.b.weight`` of ``a.b.weight``."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern stands for that path, itself or by a module that it is in."""
    paths = with_parents(name)
    return any(fnmatchcase(path, pattern) for pattern in patterns for path in paths)


def check_patterns(key: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Every pattern stands for something.

    Args:
        key: What to call them.
        patterns: Globs.
        names: Of all parameters.

    Raises:
        InputError: One stands for nothing; the nearest paths are named.
    """
    known = {path for name in names for path in with_parents(name)}
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in known):
            raise InputError(
                f"{key} names {pattern!r}",
                "no module or parameter of the model is called so",
                f"name a module path (globs allowed); {nearest(pattern, known)}",
            )
