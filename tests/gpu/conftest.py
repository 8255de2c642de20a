"""Results of a run on a real GPU, written into docs/gpu.md when it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
_HEAD = "<!-- results of make test-gpu, newest first -->"


@pytest.fixture(scope="session")
def results() -> Iterator[list[str]]:
    """Rows of the table in docs/gpu.md; ``EDGEPRESS_GPU_PAGE`` names another page."""
    rows: list[str] = []
    yield rows
    page = Path(os.environ.get("EDGEPRESS_GPU_PAGE", _PAGE))
    if rows:
        before, head, after = page.read_text(encoding="utf-8").partition(_HEAD)
        assert head, f"{page} has lost the line {_HEAD!r}"
        dated = [f"| {time.strftime('%Y-%m-%d', time.gmtime())} {row}" for row in rows]
        table = after.lstrip("\n").split("\n")
        page.write_text("\n".join([before + head, "", *table[:2], *dated, *table[2:]]), encoding="utf-8")
