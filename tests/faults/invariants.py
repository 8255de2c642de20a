"""The one check that every crash test ends with: what must hold of a store after anything."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def check_store(root: Path, *, after_next_run: bool) -> set[str]:
    """Asserts the invariants of the store, reading the disk on its own; the stages that are finished.

    Every blob hashes to its name; every record is whole JSON and all its files are there with the right size; nothing
    was quarantined; and after the next run nothing is left of an interrupted one.
    """
    sizes = {}
    for blob in root.glob("cas/*/*"):
        data = blob.read_bytes()
        assert hashlib.sha256(data).hexdigest() == blob.name, f"blob {blob} is torn"
        assert blob.parent.name == blob.name[:2]
        sizes[blob.name] = len(data)
    stages = set()
    for record in root.glob("ac/*"):
        entry = json.loads(record.read_bytes())
        for _, sha256, size_bytes in entry["files"]:
            assert sizes.get(sha256) == size_bytes, f"record {record} names a blob that is not there"
        stages.add(entry["stage"])
    assert not list(root.glob("quarantine/*")), "something was damaged"
    if after_next_run:
        assert not list(root.glob("tmp/*")), "an interrupted run left something for ever"
    return stages
