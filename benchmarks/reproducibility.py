"""Same recipe and seed, two fresh caches, two working folders, two environments: are all digests equal?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runs import DIGITS, EDGEPRESS, edgepress

ENVIRONMENTS = (
    {"TZ": "UTC", "LANG": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Asia/Tokyo", "LANG": "C.UTF-8", "PYTHONHASHSEED": "2"},
)


def main() -> None:
    """Compares every store entry of both runs; exits with 1 when an entry that is not a measurement differs."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory(prefix="another folder ") as second:
        entries = []
        for folder, environment, umask in zip((first, second), ENVIRONMENTS, (0o022, 0o077), strict=True):
            os.umask(umask)
            edgepress("run", str(DIGITS), cache=Path(folder, "cache"), cwd=Path(folder), environment=environment)
            entries.append(_entries(Path(folder, "cache")))
    differing = []
    for stage, (digest, measured) in sorted(entries[0].items()):
        same = entries[1][stage][0] == digest
        print(f"{stage:<18} {'equal' if same else 'differs'}{'  (declared measured)' if measured else ''}")
        differing += [stage] * (not same and not measured)
    sys.exit(f"undeclared differences: {', '.join(differing)}" if differing else 0)


def _entries(cache: Path) -> dict[str, tuple[str, bool]]:
    variables = {**os.environ, "EDGEPRESS_CACHE": str(cache)}
    done = subprocess.run(
        [str(EDGEPRESS), "cache", "ls", "--json"], env=variables, capture_output=True, text=True, check=True
    )
    return {entry["stage"]: (entry["digest"], entry["measured"]) for entry in json.loads(done.stdout)}


if __name__ == "__main__":
    main()
