"""Live progress in a terminal: share and time keep their place, and what a narrow terminal has no room for is text."""

from __future__ import annotations

from typing import Final, final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

_BAR: Final = 16


def progress(*, shares: bool) -> Progress:
    """Bars on stderr that vanish when all is done.

    Args:
        shares: Whether tasks tell how far they are; without, there is a spinner and the time.
    """
    elapsed = TimeElapsedColumn(table_column=_fixed())
    columns: list[ProgressColumn] = [SpinnerColumn(table_column=_fixed()), elapsed, _Cut()]
    if shares:
        left = TimeRemainingColumn(compact=True, table_column=_fixed())
        columns[1:2] = [BarColumn(bar_width=_BAR, table_column=_fixed()), elapsed, TextColumn("left"), left]
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _fixed() -> Column:
    """A column that gives up no room as long as another one can."""
    return Column(no_wrap=True)


@final
class _Cut(ProgressColumn):
    """What is done now, on one line."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")
