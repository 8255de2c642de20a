"""Two runs side by side: what shipped, how fast, how accurate, how large; and where their conditions differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.reporting import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.reporting.schema import Candidate, RunReport

_CONDITIONS: Final = ("device", "cpu", "governor", "threads", "mode", "os", "kernel", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the comparison.

    Attributes:
        label: What is compared.
        first: Of the first run.
        second: Of the second run.
        change: Of the second against the first; empty where nothing can be said.
    """

    label: str
    first: str
    second: str
    change: str = ""


def compare_runs(first: RunReport, second: RunReport) -> tuple[list[Row], list[str]]:
    """Rows of figures, and notes on what makes them hard to compare.

    Latencies of two runs are of two campaigns: their ratio carries no verdict, and a note says so.
    """
    a, b = first.shipped, second.shipped
    rows = [
        Row(label="run", first=f"{first.name} on {first.target.name}", second=f"{second.name} on {second.target.name}"),
        Row(label="ships", first=a.name if a else text.NONE, second=b.name if b else text.NONE),
    ]
    if a is None or b is None:
        return rows, ["one of the runs ships nothing: there is nothing to compare"]
    metric = first.task.metric
    rows += [
        _figure("latency", a, b, lambda c: c.latency_ms.value if c.latency_ms else None, text.milliseconds),
        Row(
            label="speed against its reference", first=text.speedup(a.vs_reference), second=text.speedup(b.vs_reference)
        ),
        _points(f"validation {metric}", a.accuracy, b.accuracy, metric),
        _points(f"test {metric}", a.accuracy_test, b.accuracy_test, second.task.metric),
        _figure("size", a, b, lambda c: c.size_bytes, text.size),
        _figure("parameters", a, b, lambda c: c.parameters, text.count),
        _figure("MACs", a, b, lambda c: c.macs, text.count),
        _figure("peak memory", a, b, lambda c: c.peak_memory_bytes, text.size),
        Row(label="quality of the measurement", first=a.quality or text.NONE, second=b.quality or text.NONE),
    ]
    kept = [row for row in rows if {row.first, row.second} != {text.NONE}]
    return kept, _notes(first, second)


def _figure(
    label: str, a: Candidate, b: Candidate, value: Callable[[Candidate], Any], shown: Callable[[Any], str]
) -> Row:
    x, y = value(a), value(b)
    change = f"{y / x - 1:+.1%}" if x and y is not None else ""
    return Row(label=label, first=shown(x), second=shown(y), change=change)


def _points(label: str, x: float | None, y: float | None, metric: str) -> Row:
    change = "" if x is None or y is None else f"{100 * (y - x):+.2f} points"
    return Row(label=label, first=text.score(x, metric), second=text.score(y, metric), change=change)


def _notes(first: RunReport, second: RunReport) -> list[str]:
    notes = ["latencies are of two campaigns: `edgepress compare` measures both bundles in one, with a verdict"]
    if first.task.metric != second.task.metric:
        notes.append(f"the metrics differ: {first.task.metric} and {second.task.metric}")
    if first.target.name != second.target.name:
        notes.append(f"the targets differ: {first.target.name} and {second.target.name}")
    for key in _CONDITIONS:
        x, y = first.conditions.get(key), second.conditions.get(key)
        if x is not None and y is not None and x != y:
            notes.append(f"{key} differs: {x} and {y}")
    return notes
