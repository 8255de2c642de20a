"""The calibration doctor: what is doubtful about samples and ranges, each finding with its evidence and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from calibration.modelfile import model_sha256, open_float
from calibration.shift import input_shifts
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from calibration.samples import CalibrationSet
    from calibration.table import CalibrationTable

Severity = Literal["note", "warning"]

MIN_SAMPLES: Final = 100
STEADY_SPREAD: Final = 0.05
UNSTEADY_SPREAD: Final = 0.25
SATURATED: Final = 0.01
"""Share of an activation's values outside its range from which on a finding is made."""

_NAMED: Final = 10
_VALUELESS: Final = frozenset({"Shape", "Size", "Constant"})  # their outputs depend on no value of the data


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something doubtful.

    Attributes:
        code: What kind: C-FEW, C-UNSTEADY, C-DUPLICATES, C-CLASSES, C-SHIFT, C-DEAD, C-CONSTANT, C-SATURATED.
        severity: ``warning`` where the ranges are probably bad, else ``note``.
        tensor: The activation or input it is about, None for the samples as a whole.
        text: What was found, one sentence.
        evidence: The figures behind it.
        fix: What to do.
    """

    code: str
    severity: Severity
    tensor: str | None
    text: str
    evidence: Mapping[str, object]
    fix: str


def diagnose(
    table: CalibrationTable,
    samples: CalibrationSet,
    model: Path,
    validation: CalibrationSet | None = None,
    labels: NDArray[np.integer] | None = None,
    min_samples: int = MIN_SAMPLES,
    *,
    held_back: int = 0,
    validation_labels: NDArray[np.integer] | None = None,
    method: str | None = None,
) -> list[Finding]:
    """All findings, warnings first.

    Args:
        table: What was measured on ``samples``.
        samples: The calibration samples.
        model: The float model.
        validation: Samples as evaluation sees them; their distribution is compared with ``samples``.
        labels: Class of each calibration sample, ``(N,)``.
        min_samples: Fewer are too few, those held back counted.
        held_back: Calibration samples that are kept for judging, beside ``samples``.
        validation_labels: Classes that occur in evaluation; without them, 0 to the largest of ``labels``.
        method: Whose ranges to judge; all of the table's when not given.

    Raises:
        InputError: The table belongs to another model or other samples, samples do not fit the model, or the table
            lacks the method.
    """
    table.check_model(model_sha256(model))
    table.check_data(samples.content_sha256)
    proto = open_float(model)
    io = io_of(proto)
    for some in (samples, validation):
        if some is not None:
            some.check_against(io)
    methods = table.methods if method is None else (method,)
    for name in methods:
        table.ranges(name)
    findings = [
        *_numbers(table, table.samples + held_back, min_samples),
        *_duplicates(table),
        *_classes(labels, validation_labels),
        *(_shifts(samples, validation) if validation is not None else ()),
        *_flat(table, _untouched(proto.graph)),
        *_saturated(table, methods),
    ]
    return sorted(findings, key=lambda finding: finding.severity != "warning")


def _numbers(table: CalibrationTable, count: int, min_samples: int) -> Iterator[Finding]:
    spreads = {name: facts.scale_spread_ratio for name, facts in table.facts.items()}
    worst = max(spreads, key=lambda name: spreads[name]) if spreads else None
    spread = spreads[worst] if worst is not None else None
    evidence = {
        "samples": count,
        "min_samples": min_samples,
        "scale_spread_ratio": spread,
        "median_scale_spread_ratio": float(np.median([*spreads.values()])) if spreads else None,
        "tensor": worst,
    }
    moved = "" if spread is None else f"; with other samples its scale of {worst!r} would move by about {spread:.1%}"
    if count < min_samples:
        steady = spread is not None and spread < STEADY_SPREAD and table.samples > 1
        yield Finding(
            code="C-FEW",
            severity="note" if steady else "warning",
            tensor=None,
            text=f"{count} calibration samples are fewer than {min_samples}{moved}",
            evidence=evidence,
            fix=f"give at least {min_samples} samples that differ, drawn as in real use",
        )
    elif spread is not None and spread > UNSTEADY_SPREAD:
        yield Finding(
            code="C-UNSTEADY",
            severity="note",
            tensor=worst,
            text=f"few samples make the range of {worst!r}: with other samples its scale would move by {spread:.1%}",
            evidence=evidence,
            fix="give more samples, look at the extreme ones, or use method percentile or mse: outliers move it less",
        )


def _duplicates(table: CalibrationTable) -> Iterator[Finding]:
    ids = table.sample_ids
    distinct = len(set(ids))
    if ids and distinct < len(ids):
        yield Finding(
            code="C-DUPLICATES",
            severity="warning" if distinct < len(ids) / 2 else "note",
            tensor=None,
            text=f"{len(ids)} calibration samples are only {distinct} different ones",
            evidence={"samples": len(ids), "different": distinct},
            fix="give different samples; a repeated one adds nothing to the ranges",
        )


def _classes(labels: NDArray[np.integer] | None, wanted: NDArray[np.integer] | None) -> Iterator[Finding]:
    if labels is None or not labels.size:
        return
    found = {int(label) for label in np.unique(labels)}
    all_of = {int(label) for label in np.unique(wanted)} if wanted is not None else set(range(max(found) + 1))
    missing = sorted(all_of - found)
    if missing:
        named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
        yield Finding(
            code="C-CLASSES",
            severity="warning",
            tensor=None,
            text=f"{len(missing)} of {len(all_of)} classes have no calibration sample: {named}",
            evidence={"missing": missing, "classes": len(all_of)},
            fix="draw the calibration samples from every class, evenly or as often as in real use",
        )


def _shifts(samples: CalibrationSet, validation: CalibrationSet) -> Iterator[Finding]:
    for shift in input_shifts(samples, validation):
        yield Finding(
            code="C-SHIFT",
            severity="warning",
            tensor=shift.input,
            text=f"calibration input {shift.input!r} is not distributed as in evaluation: {shift.text}",
            evidence=shift.evidence,
            fix=shift.fix,
        )


def _untouched(graph: onnx.GraphProto) -> set[str]:
    """What no value of the data reaches, such as zeros of the shape of something: it is constant by construction."""
    reached = {value.name for value in graph.input}
    untouched: set[str] = set()
    for node in graph.node:
        bodies = any(attribute.HasField("g") for attribute in node.attribute)
        if not bodies and (node.op_type in _VALUELESS or (node.input and reached.isdisjoint(node.input))):
            untouched.update(node.output)
        else:
            reached.update(node.output)
    return untouched


def _flat(table: CalibrationTable, untouched: set[str]) -> Iterator[Finding]:
    for name, facts in table.facts.items():
        if facts.low != facts.high or name in untouched:
            continue
        dead = facts.low == 0.0
        yield Finding(
            code="C-DEAD" if dead else "C-CONSTANT",
            severity="warning",
            tensor=name,
            text=f"activation {name!r} is {facts.low + 0.0:g} for every sample and position",
            evidence={"value": facts.low, "count": facts.count},
            fix="give samples that reach it; if it stays so, the layer computes nothing: prune or repair it",
        )


def _saturated(table: CalibrationTable, methods: tuple[str, ...]) -> Iterator[Finding]:
    for name, facts in table.facts.items():
        beyond = {method: facts.outside_ratio.get(method, 0.0) for method in methods}
        bad = {method: share for method, share in beyond.items() if share > SATURATED}
        if not bad:
            continue
        worst = max(bad, key=lambda method: bad[method])
        gentle = min(facts.outside_ratio, key=lambda method: facts.outside_ratio[method])
        yield Finding(
            code="C-SATURATED",
            severity="warning" if len(methods) == 1 else "note",
            tensor=name,
            text=f"method {worst} clips {bad[worst]:.1%} of the values of {name!r}",
            evidence={"outside_ratio": bad, "range": table.tensors[name][worst]},
            fix=f"use method {gentle} (it clips {facts.outside_ratio[gentle]:.2%}), or leave the layer in float",
        )
