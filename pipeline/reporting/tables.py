"""The cells of the report's tables, as text; rows and columns that nobody filled are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from pipeline.reporting import text

if TYPE_CHECKING:
    from pipeline.reporting.schema import Candidate, RunReport, Stage, StageMetrics
    from pipeline.reporting.schema_layers import LayerTimes


_Row: TypeAlias = "tuple[str, Callable[[Candidate], str]]"


def candidate_rows(report: RunReport) -> list[tuple[str, list[str]]]:
    """Label and one cell for each candidate."""
    metric, test = report.task.metric, report.test
    rows: list[_Row] = [
        ("engine", lambda c: c.engine or text.NONE),
        ("latency", lambda c: text.interval(c.latency_ms, "ms")),
        ("speed", lambda c: text.speedup(c.vs_reference)),
        ("against", lambda c: c.vs_reference.reference if c.vs_reference else text.NONE),
        ("shown to be", lambda c: c.vs_reference.verdict if c.vs_reference and c.vs_reference.verdict else text.NONE),
        ("p90", lambda c: _percentile(c.p90_ms, c.p90_note)),
        ("p99", lambda c: _percentile(c.p99_ms, c.p99_note)),
        ("throughput", lambda c: text.NONE if c.throughput_ips is None else f"{text.number(c.throughput_ips)}/s"),
        (f"{report.validation.split} {metric}", lambda c: text.score(c.accuracy, metric)),
        ("answers by", lambda c: c.answers_by or text.NONE),
        (f"{metric} on the device", lambda c: text.score(c.accuracy_device, metric)),
        (f"{test.split} {metric}", lambda c: text.score_interval(c.accuracy_test, metric, test.samples)),
        *_beside_rows(report),
        ("size", lambda c: text.size(c.size_bytes)),
        ("parameters", lambda c: text.count(c.parameters)),
        ("MACs", lambda c: text.count(c.macs)),
        ("run peak", lambda c: text.size(c.peak_memory_bytes)),
        ("load peak", lambda c: text.size(c.load_peak_bytes)),
        ("memory of its own", lambda c: text.size(c.unique_memory_bytes)),
        ("load", lambda c: text.milliseconds(c.load_ms)),
        ("first inference", lambda c: text.milliseconds(c.first_ms)),
        ("quality", lambda c: c.quality or text.NONE),
    ]
    filled = [(label, [cell(candidate) for candidate in report.candidates]) for label, cell in rows]
    return [(label, cells) for label, cells in filled if any(cell != text.NONE for cell in cells)]


def candidate_table(report: RunReport) -> tuple[list[str], list[tuple[Candidate, list[str]]]]:
    """What matters most of each candidate: the labels of the columns, and each candidate with its cells."""
    metric, first = report.task.metric, report.candidates[0] if report.candidates else None

    def change(candidate: Candidate) -> str:
        if first is None or candidate is first or candidate.accuracy is None or first.accuracy is None:
            return text.score(candidate.accuracy, metric)
        points = text.points(candidate.accuracy, first.accuracy, metric)
        return f"{text.score(candidate.accuracy, metric)} [{points}]"

    columns: list[_Row] = [
        ("latency", lambda c: text.interval(c.latency_ms, "ms")),
        ("speed", lambda c: text.speedup(c.vs_reference)),
        (metric, change),
        ("size", lambda c: text.size(c.size_bytes)),
        ("peak memory", lambda c: text.size(c.peak_memory_bytes)),
        ("grade", lambda c: c.quality or text.NONE),
    ]
    used = [(label, cell) for label, cell in columns if any(cell(c) != text.NONE for c in report.candidates)]
    return [label for label, _ in used], [(c, [cell(c) for _, cell in used]) for c in report.candidates]


def _beside_rows(report: RunReport) -> list[_Row]:
    """A row for each further metric and split."""
    names = dict.fromkeys(name for candidate in report.candidates for name in candidate.beside)

    def row(split: str, name: str, found: Callable[[Candidate], Mapping[str, float]]) -> _Row:
        return f"{split} {name}", lambda c: text.score(found(c).get(name), name)

    return [
        row(split, name, found)
        for name in names
        for split, found in (
            (report.validation.split, lambda c: c.beside),
            (report.test.split, lambda c: c.beside_test),
        )
    ]


def _percentile(value: float | None, note: str) -> str:
    """``0.71 ms [n = 700, at most 0.74 ms]``, or why there is none."""
    shown, rest = text.percentile(value, note)
    if value is None and not rest:
        return text.NONE if shown == text.NONE else f"{text.NONE} [{shown}]"
    return f"{shown} [{rest}]" if rest else shown


def stage_table(report: RunReport) -> tuple[list[str], list[tuple[Stage, list[str]]]]:
    """The labels of the columns, and each stage with its cells."""
    columns: list[tuple[str, Callable[[StageMetrics], str]]] = [
        (report.task.metric, lambda m: text.score(m.accuracy, report.task.metric)),
        ("parameters", lambda m: text.count(m.parameters)),
        ("MACs", lambda m: text.count(m.macs)),
        ("size", lambda m: text.size(m.size_bytes)),
        ("latency", lambda m: text.interval(m.latency_ms, "ms")),
        ("peak memory", lambda m: text.size(m.peak_memory_bytes)),
    ]
    used = [
        (label, cell) for label, cell in columns if any(cell(stage.metrics) != text.NONE for stage in report.stages)
    ]
    return [label for label, _ in used], [(stage, [cell(stage.metrics) for _, cell in used]) for stage in report.stages]


def layer_table(times: LayerTimes) -> tuple[list[str], list[list[str]]]:
    """What the layers of the shipped engine take, in the order of execution: the head and the rows."""
    head = ["layer", "operator", "shape", "precision", "SNR", "µs", "share", "bound by", "of attainable"]
    rows = [
        [
            row.module or ("(top level)" if row.module == "" else row.node),
            row.op,
            text.shape(row.shape),
            row.precision,
            text.decibels(row.snr_db),
            text.number(row.us),
            f"{100 * row.share_ratio:.1f} %",
            row.bound,
            text.NONE if row.attained_pct is None else f"{row.attained_pct:.0f} %",
        ]
        for row in times.rows
    ]
    return head, rows
