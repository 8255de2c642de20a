"""How long a user waits for nothing: `--help`, and a run whose every stage is in the store."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from runs import DIGITS, edgepress

REPEATS = 7


def main() -> None:
    """Prints medians over fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        cache, work = Path(folder, "cache"), Path(folder)
        helps = [edgepress("--help", cache=cache, cwd=work) for _ in range(REPEATS)]
        edgepress("run", str(DIGITS), cache=cache, cwd=work)
        cached = [edgepress("run", str(DIGITS), cache=cache, cwd=work) for _ in range(REPEATS)]
    print(f"edgepress --help        median {statistics.median(helps):.3f} s  (goal 0.3 s)")
    print(f"edgepress run, cached   median {statistics.median(cached):.3f} s  (goal 1.5 s)")


if __name__ == "__main__":
    main()
