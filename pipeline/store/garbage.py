"""Removes what no result needs. The caller holds the store alone."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from targets.files import fsync_folder, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from pipeline.store.entries import Entry

_SECONDS_PER_DAY: Final = 86_400
_HASH_IN_TEXT: Final = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What a collection removed.

    Attributes:
        removed_entries: How many results.
        removed_bytes: How much space, damaged files and leftovers included.
        kept_entries: How many results are left.
    """

    removed_entries: int
    removed_bytes: int
    kept_entries: int


def collect(root: Path, entries: Iterable[Entry], *, max_age_days: float | None, everything: bool) -> GcReport:
    """Removes records first and blobs after, so that a crash leaves no record without its blobs.

    A record that is not among ``entries`` is of another version: it stays, with every blob whose hash stands in it.

    Raises:
        OSError: The disk refused.
    """
    records = root / "ac"
    oldest_s = float("-inf") if max_age_days is None else time.time() - max_age_days * _SECONDS_PER_DAY
    known = {f"{entry.key}.json": entry for entry in entries}
    kept = {name for name in known if not everything and (records / name).stat().st_mtime >= oldest_s}
    foreign = set() if everything else {path.name for path in records.iterdir()} - known.keys()
    needed = {ref.sha256 for name in kept for ref in known[name].files}
    for name in foreign:
        needed |= {text.decode() for text in _HASH_IN_TEXT.findall((records / name).read_bytes())}

    removed_bytes = _sweep(records, keep=kept | foreign)
    fsync_folder(records)
    for folder in (root / "cas").iterdir():
        removed_bytes += _sweep(folder, keep=needed)
    for folder in (root / "tmp", root / "quarantine"):
        removed_bytes += _sweep(folder, keep=frozenset())
    unfinished = root / "unfinished"
    if unfinished.exists():
        young = {path.name for path in unfinished.iterdir() if not everything and path.stat().st_mtime >= oldest_s}
        removed_bytes += _sweep(unfinished, keep=young)
    _sweep(root / "locks", keep={"session"})
    return GcReport(removed_entries=len(known) - len(kept), removed_bytes=removed_bytes, kept_entries=len(kept))


def _sweep(folder: Path, *, keep: AbstractSet[str]) -> int:
    """Removes everything in a folder but the names to keep; how many bytes that freed."""
    freed_bytes = 0
    for path in sorted(folder.iterdir()):
        if path.name not in keep:
            inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
            freed_bytes += sum(item.lstat().st_size for item in inside)
            remove_tree(path)
    return freed_bytes
