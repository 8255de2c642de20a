"""Live progress, as a terminal shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.cli.bars import progress


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("shares", [True, False])
def test_a_narrow_terminal_cuts_the_text_and_nothing_else(width: int, *, shares: bool) -> None:
    """Promise: one line; share and time that is left are there at any usual width, the text as far as there is room."""
    bars = progress(shares=shares)
    bars.add_task("distill  epoch 1, step 3/68  loss 1.547  learning_rate 0.01  " * 3, total=1.0, completed=0.5)
    seen = io.StringIO()
    Console(file=seen, width=width, force_terminal=False).print(bars.get_renderable())
    (line,) = seen.getvalue().splitlines()
    assert "0:00:00" in line
    assert ("left" in line) is shares
    assert "distill  epoch" in line
    assert line.rstrip().endswith("…")
