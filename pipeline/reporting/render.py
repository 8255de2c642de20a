"""Renders a run as one HTML page that needs nothing else: no script, no remote resource, plots inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.reporting import text
from pipeline.reporting.schema import Candidate, RunReport, run_report
from pipeline.reporting.templates import templates
from targets.files import write_atomic

RUN_NAME: Final = "run.json"
REPORT_NAME: Final = "report.html"
_TEMPLATE: Final = "report.html.jinja"
_LONG_CONDITION: Final = "why this grade"
_CONTENTS: Final = (
    ("candidates", "Candidates", "candidates"),
    ("stages", "Stages", "stages"),
    ("training", "Training", "curves"),
    ("channels", "Channels", "widths"),
    ("layers", "Layers", "layers"),
    ("ranges", "Calibration", "calibration"),
    ("measurement", "Measurement", "timeline"),
    ("conditions", "Conditions", "name"),
    ("warnings", "Warnings", "warnings"),
    ("use", "Use it", "name"),
)
"""Anchor, title and the field without which there is no such section."""


def write_report(run: Mapping[str, object], folder: Path) -> tuple[Path, Path]:
    """Writes ``run.json`` and ``report.html`` into ``folder``, each atomically, and gives their paths.

    Raises:
        InputError: The run does not have the layout of `pipeline.reporting.schema`.
        EnvironmentFailure: The disk is full or not writable.
    """
    page, data = render_report(run), run_json(run)
    run_path, report_path = folder / RUN_NAME, folder / REPORT_NAME
    write_atomic(run_path, data.encode())
    write_atomic(report_path, page.encode())
    return run_path, report_path


def run_json(run: Mapping[str, object]) -> str:
    """The text of ``run.json``: checked, without private paths and credentials.

    Raises:
        InputError: The run does not have the layout of `pipeline.reporting.schema`.
    """
    shown = text.presentable(run, home=str(Path.home()))
    run_report(shown)
    return json.dumps(shown, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def render_report(run: Mapping[str, object]) -> str:
    """The text of ``report.html``; the same run gives the same bytes.

    Raises:
        InputError: The run does not have the layout of `pipeline.reporting.schema`.
    """
    from markupsafe import Markup

    from pipeline.reporting.charts import charts
    from pipeline.reporting.story import headline, steps
    from pipeline.reporting.tables import candidate_rows, candidate_table, stage_table

    report = run_report(text.presentable(run, home=str(Path.home())))
    environment = templates()
    environment.globals.update(t=text, plots={name: Markup(svg) for name, svg in charts(report).items()})  # noqa: S704
    labels, stage_rows = stage_table(report)
    environment.filters["plain"] = _plain
    candidate_labels, candidates = candidate_table(report)
    page = environment.get_template(_TEMPLATE).render(
        run=report,
        reference=_reference(report),
        rows=candidate_rows(report),
        stage_labels=labels,
        stage_rows=stage_rows,
        precisions=sorted({p for kinds in report.inspect.nodes.values() for p in kinds}),
        headline=headline(report),
        story=steps(report),
        brief_conditions={key: value for key, value in report.conditions.items() if key != _LONG_CONDITION},
        candidate_labels=candidate_labels,
        candidates=candidates,
        snr_known=report.times is not None and any(row.snr_db is not None for row in report.times.rows),
        contents=[(anchor, title) for anchor, title, field in _CONTENTS if getattr(report, field)],
    )
    return str(page)


def render_comparison(first: Mapping[str, object], second: Mapping[str, object]) -> str:
    """Two runs side by side as one page; the same runs give the same bytes.

    Raises:
        InputError: A run does not have the layout of `pipeline.reporting.schema`.
    """
    from pipeline.reporting.compare import compare_runs
    from pipeline.reporting.story import headline

    runs = [run_report(text.presentable(run, home=str(Path.home()))) for run in (first, second)]
    rows, notes = compare_runs(*runs)
    page = templates().get_template("compare.html.jinja")
    said = [headline(run) for run in runs]
    return str(page.render(first=runs[0], second=runs[1], rows=rows, notes=notes, headlines=said, t=text))


def _reference(report: RunReport) -> Candidate | None:
    """What the shipped candidate is compared with: what it names itself, else the first one; never itself."""
    shipped = report.shipped
    if shipped is None or shipped is report.candidates[0]:
        return None
    name = shipped.vs_reference.reference if shipped.vs_reference else ""
    return next((c for c in report.candidates if c.name == name and c is not shipped), report.candidates[0])


def _plain(value: object) -> str:
    """A value of a free table, for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or text.NONE
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or text.NONE
    return text.NONE if value is None or value == "" else str(value)
