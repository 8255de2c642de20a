"""The run in a few lines for the terminal: the candidates and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pipeline.reporting import text
from pipeline.reporting.schema import RunReport, run_report
from pipeline.reporting.story import headline
from targets.words import counted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from pipeline.reporting.schema import Candidate

_LAYOUTS: Final = (
    ("latency [95 % CI]", "speed [95 % CI]", "{metric}", "size", "parameters", "memory"),
    ("latency [95 % CI]", "speed [95 % CI]", "{metric}", "size"),
    ("latency [95 % CI]", "speed", "{metric}", "size"),
    ("latency", "speed", "{metric}", "size"),
    ("latency", "size"),
)
"""What the table of candidates shows, from the widest to the narrowest terminal; their names always come first."""


def terminal_summary(run: Mapping[str, object]) -> RenderableType:
    """A rich renderable; plain text when the console is no terminal. Names are shown literally, never as markup.

    Raises:
        InputError: The run does not have the layout of `pipeline.reporting.schema`.
    """
    from rich.console import Group
    from rich.text import Text

    report = run_report(text.presentable(run, home=str(Path.home())))
    good = report.verdict.met_budget and report.verdict.shipped is not None
    tables = [_candidates(report, columns) for columns in _LAYOUTS]
    lines: list[RenderableType] = [_Widest(tables)] if report.candidates else []
    lines.extend(Text(line) for line in _allocation_lines(report))
    style = "bold green" if good else "bold red"
    reference_ships = bool(report.candidates) and report.shipped is report.candidates[0]  # then both say the same
    said = [] if reference_ships else [headline(report)]
    first, *more = dict.fromkeys([*said, report.verdict.sentence])
    lines.extend([Text(first, style=style), *(Text(line) for line in more)])
    lines.extend(Text(f"  {reason}", style="dim") for reason in report.verdict.reasons)
    lines.extend(Text(f"  {line}", style="dim") for line in report.changes)
    lines.extend(_whole_lines(report))
    lines.extend(_dropped_lines(report))
    lines.extend(_warning_lines(report))
    return Group(*lines)


def _whole_lines(report: RunReport) -> list[RenderableType]:
    """What pruning could not touch beside the model's outputs, the most expensive first."""
    from rich.text import Text

    held = sorted((item for item in report.whole if item.operator != "output"), key=lambda item: -item.parameters)
    if not held:
        return []
    first = held[0]
    place = f" at {first.module}" if first.module else ""
    more = f", and {len(held) - 1} more" if len(held) > 1 else ""
    held_there = f"{counted(first.units, 'channel')} ({counted(first.parameters, 'parameter')})"
    said = f"{held_there} by {first.operator}{place}: {first.reason}{more}"
    return [Text(f"  pruning left whole: {said}", style="dim")]


def _allocation_lines(report: RunReport) -> list[str]:
    """Predicted beside measured, where channels were removed for a latency."""
    if report.allocation is None:
        return []
    last = report.allocation.rounds[-1]
    asked, predicted, measured, dense = (
        text.milliseconds(value) for value in (last.target_ms, last.predicted_ms, last.measured_ms, last.dense_ms)
    )
    compared = f"predicted {predicted}, measured {measured} ({report.allocation.precision}, dense {dense})"
    return [f"pruned for {asked}: {compared}, {last.importance_ratio:.0%} of the importance kept"]


def _dropped_lines(report: RunReport) -> list[RenderableType]:
    """What was to be built and could not be, and why; candidates with nothing to offer are no news here."""
    return [
        line
        for item in report.dropped
        if not item.quiet
        for line in notice(f"{item.name} not built", f": {item.what}: {item.why}", item.fix)
    ]


def _warning_lines(report: RunReport) -> list[RenderableType]:
    """One notice a code: what it means, how often it was said, how to mend it."""
    times = Counter(warning.code for warning in report.warnings)
    first = {warning.code: warning for warning in reversed(report.warnings)}
    return [
        line
        for code, count in times.items()
        for line in notice(code, f" {first[code].text}" + (f" ({count} times)" if count > 1 else ""), first[code].fix)
    ]


def notice(head: str, said: str, fix: str, *, style: str = "yellow") -> list[RenderableType]:
    """A warning for the terminal: what it is, and indented on a line of its own what mends it."""
    from rich.padding import Padding
    from rich.text import Text

    lines: list[RenderableType] = [Text.assemble((head, style), said)]
    return [*lines, Padding(Text(f"Fix: {fix}", style="dim"), (0, 0, 0, 2), expand=False)] if fix else lines


@final
@dataclass(frozen=True, slots=True)
class _Widest:
    """Shows the first of several tables that fits the console, whole; the last where none does."""

    tables: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(max_width=1_000)
        fitting = (
            table for table in self.tables if console.measure(table, options=unbounded).maximum <= options.max_width
        )
        yield next(fitting, self.tables[-1])


def _candidates(report: RunReport, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    metric = report.task.metric
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate", no_wrap=True)
    for title in columns:
        table.add_column(Text(title.format(metric=metric)), justify="right", no_wrap=True)
    for candidate in report.candidates:
        cells = {
            "latency": text.milliseconds(candidate.latency_ms.value if candidate.latency_ms else None),
            "latency [95 % CI]": text.interval(candidate.latency_ms, "ms"),
            "speed": _speed(candidate).partition(" [")[0],
            "speed [95 % CI]": _speed(candidate),
            "{metric}": text.score(candidate.accuracy, metric),
            "size": text.size(candidate.size_bytes),
            "parameters": text.count(candidate.parameters),
            "memory": text.size(candidate.peak_memory_bytes),
        }
        name = Text(f"{candidate.name} *" if candidate.shipped else candidate.name)
        table.add_row(name, *(Text(cells[column]) for column in columns), style="bold" if candidate.shipped else "")
    return table


def _speed(candidate: Candidate) -> str:
    """The speed against the reference, where a difference or none was shown; a ratio alone is read as a claim."""
    compared = candidate.vs_reference
    return "unclear" if compared is not None and compared.verdict == "not shown" else text.speedup(compared)
