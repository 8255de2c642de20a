"""The run in a few lines for the terminal: the candidates and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reporting import text
from pipeline.reporting.schema import RunReport, run_report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def terminal_summary(run: Mapping[str, object]) -> RenderableType:
    """A rich renderable; plain text when the console is no terminal. Names are shown literally, never as markup.

    Raises:
        InputError: The run does not have the layout of `pipeline.reporting.schema`.
    """
    from rich.console import Group
    from rich.text import Text

    report = run_report(text.presentable(run, home=str(Path.home())))
    good = report.verdict.met_budget and report.verdict.shipped is not None
    lines: list[RenderableType] = [_candidates(report)] if report.candidates else []
    lines.append(Text(report.verdict.sentence, style="bold green" if good else "bold red"))
    lines.extend(Text(f"  {reason}", style="dim") for reason in report.verdict.reasons)
    lines.extend(
        Text.assemble((warning.code, "yellow"), f" {warning.text}", f" Fix: {warning.fix}" if warning.fix else "")
        for warning in report.warnings
    )
    return Group(*lines)


def _candidates(report: RunReport) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate")
    for title in (
        "latency [95 % CI]",
        "speed",
        f"validation {report.task.metric}",
        "size",
        "parameters",
        "peak memory",
    ):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for candidate in report.candidates:
        name = Text(f"{candidate.name} *" if candidate.shipped else candidate.name)
        cells = (
            text.interval(candidate.latency_ms, "ms"),
            text.speedup(candidate.vs_reference),
            text.score(candidate.accuracy, report.task.metric),
            text.size(candidate.size_bytes),
            text.count(candidate.parameters),
            text.size(candidate.peak_memory_bytes),
        )
        table.add_row(name, *(Text(cell) for cell in cells), style="bold" if candidate.shipped else "")
    return table
