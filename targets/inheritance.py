"""Reads a profile and what it extends, merges them key by key, and remembers which file each key is from."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from targets.errors import Fault, InputError, faults_error, nearest
from targets.faults import read_toml

EXTENDS: Final = "extends"
_BUNDLED: Final = resources.files("targets") / "profiles"
_DEEPEST: Final = 16

Tables = dict[str, Any]
Follow = Callable[[str, Mapping[str, Any]], str]
"""Takes a detecting profile (what messages call it, its tables); returns the name of the profile that fits here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """A profile's tables with those of its ancestors beneath.

    Attributes:
        subject: What messages call the profile: a bundled name, or the file's name.
        tables: The merged content, without ``extends``.
        ancestors: What it extends, the nearest first; empty where it stands alone.
        origins: Path of each key -> the file or bundled name that says it.
        levels: What was there once each file was laid on top: its name and the tables, the farthest ancestor first.
    """

    subject: str
    tables: Tables
    ancestors: tuple[str, ...]
    origins: Mapping[tuple[str, ...], str]
    levels: tuple[tuple[str, Tables], ...] = ()

    def blame(self, faults: Iterable[Fault], check: Callable[[Tables], Iterable[Fault]]) -> list[Fault]:
        """The faults with the file that brings each in before its place, where more than one file has a say.

        That is the first with which the fault is there. It need not hold the key: an engine that a child chooses may
        be wrong with the scheme that its parent chose. Then the file that holds the key is named too.

        Args:
            faults: What is wrong with all files together.
            check: What is wrong with the tables of a level.
        """
        if not self.ancestors:
            return [*faults]
        brought: dict[tuple[str, str], str] = {}
        for name, tables in self.levels:
            for fault in check(tables):
                brought.setdefault((fault.where, fault.what), name)
        return [self._blamed(fault, brought.get((fault.where, fault.what), self.subject)) for fault in faults]

    def _blamed(self, fault: Fault, by: str) -> Fault:
        path = tuple(fault.where.split("."))
        longest = (path[:length] for length in range(len(path), 0, -1))
        origin = next((self.origins[part] for part in longest if part in self.origins), self.subject)
        what = fault.what if by == origin else f"{fault.what} ({origin} says so, and {by} makes it wrong)"
        return Fault(where=f"{by}: {fault.where}", what=what, fix=fault.fix)


def bundled_names() -> tuple[str, ...]:
    """Names of the profiles that come with edgepress, sorted."""
    return tuple(sorted(entry.name[:-5] for entry in _BUNDLED.iterdir() if entry.name.endswith(".toml")))


def read_bundled(name: str) -> Tables:
    """The tables of a profile that comes with edgepress.

    Raises:
        InputError: There is none of that name.
    """
    if name not in bundled_names():
        raise InputError(
            f"there is no target called {name!r}",
            nearest(name, bundled_names()),
            "`edgepress targets list` shows all; --target also takes the path of your own profile.toml",
        )
    return tomllib.loads((_BUNDLED / f"{name}.toml").read_text(encoding="utf-8"))


def read_layers(target: str, follow: Follow) -> Layered:
    """The profile ``target`` (a bundled name or a ``.toml`` file) with what it extends beneath.

    A table is merged key by key and the child's value wins; a list takes the place of the parent's list. An engine
    table that names another engine takes the place of the parent's as a whole: its keys are another engine's.

    Args:
        target: Name or path.
        follow: Finds the profile that fits this machine, for parents that are lists of rows.

    Raises:
        InputError: It cannot be read, or ``extends`` leads nowhere or in a circle.
    """
    chain = _chain(target, follow)
    subject = chain[0][0]
    tables: Tables = {}
    origins: dict[tuple[str, ...], str] = {}
    levels: list[tuple[str, Tables]] = []
    for name, layer in reversed(chain):
        tables = _merged(tables, {key: value for key, value in layer.items() if key != EXTENDS}, (), name, origins)
        levels.append((name, tables))
    if len(chain) > 1 and "name" not in chain[0][1]:
        tables.pop("name", None)  # results lie in a folder of that name: a child must not write into its parent's
        origins["name",] = subject
    return Layered(
        subject=subject,
        tables=tables,
        ancestors=tuple(name for name, _ in chain[1:]),
        origins=origins,
        levels=tuple(levels),
    )


def _chain(target: str, follow: Follow) -> list[tuple[str, Tables]]:
    """The profile and its ancestors, the nearest first, each with what messages call it."""
    chain: list[tuple[str, Tables]] = []
    seen: list[str] = []
    child: tuple[str, Path | None] | None = None
    current = target
    while True:
        subject, path, identity = _located(current, child)
        if identity in seen or len(seen) == _DEEPEST:
            raise _fault(chain[-1][0], f"{' -> '.join([*(name for name, _ in chain), subject])} goes round in a circle")
        tables = _read(subject, path, child)
        if child is not None and "detect" in tables:
            chain.append((subject, {}))
            seen.append(identity)
            child, current = (subject, path), follow(subject, tables)
            continue
        chain.append((subject, tables))
        seen.append(identity)
        parent = tables.get(EXTENDS)
        if parent is None:
            return chain
        if not isinstance(parent, str) or not parent:
            raise _fault(subject, f"{parent!r} names no profile")
        child, current = (subject, path), parent


def _located(target: str, child: tuple[str, Path | None] | None) -> tuple[str, Path | None, str]:
    """What messages call a target, its file (None for a bundled one), and what tells it from all others."""
    if not target.endswith(".toml"):
        return target, None, target
    path = Path(target)
    if child is not None and child[1] is not None:
        path = child[1].parent / path
    return path.name, path, str(path.resolve())


def _read(subject: str, path: Path | None, child: tuple[str, Path | None] | None) -> Tables:
    if child is None:
        return read_bundled(subject) if path is None else read_toml(path, "the target profile")
    if path is None:
        if subject not in bundled_names():
            raise _fault(child[0], f"there is no profile {subject!r}", nearest(subject, bundled_names()))
        return read_bundled(subject)
    try:
        return read_toml(path, "the target profile")
    except InputError as error:
        raise _fault(child[0], f"{error.what}: {error.why}", error.fix) from error


def _fault(
    subject: str, what: str, fix: str = "name a bundled profile, or the path of another .toml file"
) -> InputError:
    return faults_error(f"profile {subject!r}", [Fault(where=EXTENDS, what=what, fix=fix)])


def _merged(
    below: Tables, above: Mapping[str, Any], at: tuple[str, ...], name: str, origins: dict[tuple[str, ...], str]
) -> Tables:
    """``above`` over ``below``; notes for each key of ``above`` that it is from ``name``."""
    result = dict(below)
    for key, value in above.items():
        path = (*at, key)
        under = below.get(key)
        if isinstance(value, dict) and isinstance(under, dict) and not _is_another_engine(path, value, under):
            result[key] = _merged(under, value, path, name, origins)
            continue
        _forget(origins, path)
        origins[path] = name
        result[key] = _merged({}, value, path, name, origins) if isinstance(value, dict) else value
    return result


def _is_another_engine(path: Sequence[str], above: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    return list(path) == ["engine"] and "name" in above and above["name"] != below.get("name")


def _forget(origins: dict[tuple[str, ...], str], path: Sequence[str]) -> None:
    """Drops what was noted beneath a key whose value is replaced."""
    for noted in [item for item in origins if item[: len(path)] == tuple(path)]:
        del origins[noted]
