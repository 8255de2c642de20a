"""A run as Markdown, for a merge request or a wiki: verdict, candidates, stages, channels, layers, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.reporting import text
from pipeline.reporting.compare import Row
from pipeline.reporting.schema import run_report
from pipeline.reporting.tables import candidate_rows, layer_table, stage_table


def markdown_report(run: Mapping[str, object]) -> str:
    """The run's tables; the same run gives the same text.

    Raises:
        InputError: The run does not have the layout of `pipeline.reporting.schema`.
    """
    report = run_report(text.presentable(run, home=str(Path.home())))
    parts = [f"# {_cell(report.name)} on {_cell(report.target.name)}", f"**{_cell(report.verdict.sentence)}**"]
    parts += ["\n".join(f"- {_cell(reason)}" for reason in report.verdict.reasons)] if report.verdict.reasons else []
    if report.candidates:
        head = ["", *(f"{c.name} (ships)" if c.shipped else c.name for c in report.candidates)]
        parts += ["## Candidates", _table(head, [[label, *cells] for label, cells in candidate_rows(report)])]
    labels, stages = stage_table(report)
    if stages:
        rows = [[stage.stage, *cells, f"{stage.wall_s:.1f} s"] for stage, cells in stages]
        parts += ["## Stages", _table(["stage", *labels, "took"], rows)]
    if report.changes:
        parts += ["## Changes of the model", "\n".join(f"- {_cell(line)}" for line in report.changes)]
    if report.widths:
        rows = [[width.group, str(width.before), str(width.after)] for width in report.widths]
        parts += ["## Channels", _table(["group", "before", "after"], rows)]
    if report.times is not None and report.times.rows:
        parts += [f"## Layers of {_cell(report.times.candidate)}", _table(*layer_table(report.times))]
    if missing := [one for one in report.dropped if not one.quiet]:
        lines = (f"- {_cell(one.name)}: {_cell(one.what)}: {_cell(one.why)}. Fix: {_cell(one.fix)}." for one in missing)
        parts += ["## Not built", "\n".join(lines)]
    if report.warnings:
        lines = (f"- `{w.code}` {_cell(w.text)}. Fix: {_cell(w.fix)}." for w in report.warnings)
        parts += ["## Warnings", "\n".join(lines)]
    if report.reproduce:
        parts += ["## Again", "```\n" + "\n".join(report.reproduce) + "\n```"]
    return "\n\n".join(parts) + "\n"


def markdown_comparison(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Two runs side by side."""
    table = _table(["", "first", "second", "change"], [[r.label, r.first, r.second, r.change] for r in rows])
    return "\n\n".join([table, "\n".join(f"- {_cell(note)}" for note in notes)]) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: str) -> str:
    """Foreign names must not become markup."""
    cleaned = value.replace("\n", " ").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*_[]|#":
        cleaned = cleaned.replace(char, f"\\{char}")
    return cleaned
