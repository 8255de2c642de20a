"""Shared by the benchmarks: run edgepress in a fresh process with a cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

EDGEPRESS = Path(sys.executable).with_name("edgepress")
DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"


def edgepress(*arguments: str, cache: Path, cwd: Path, environment: dict[str, str] | None = None) -> float:
    """Runs the command line and returns its wall time in seconds.

    Raises:
        SystemExit: It failed; its output is shown.
    """
    variables = {**os.environ, "EDGEPRESS_CACHE": str(cache), **(environment or {})}
    started_s = time.monotonic()
    done = subprocess.run(
        [str(EDGEPRESS), *arguments], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    wall_s = time.monotonic() - started_s
    if done.returncode:
        sys.exit(f"edgepress {' '.join(arguments)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return wall_s
