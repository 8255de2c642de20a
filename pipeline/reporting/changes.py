"""What was changed of the model by hand, in depth, in single weights and to save int8: one line each, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from targets.words import counted

_LISTED: Final = 8


def change_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a run, from the results of its stages by name."""
    return [
        *_surgery(results.get("surgery", {})),
        *_depth(results.get("depth", {})),
        *_sparsity(results.get("sparsify", {})),
        *(
            line
            for node, told in results.items()
            if node.partition(":")[0] == "quantize"
            for line in _recovery(node, told)
        ),
    ]


def _surgery(told: Mapping[str, Any]) -> list[str]:
    removed, widths = told.get("removed", []), told.get("widths", [])
    lines = [f"surgery removed {_listed(removed)}"] if removed else []
    if widths:
        cut = [f"{row['module']} from {row['before']} to {row['after']} channels" for row in widths]
        lines.append(f"surgery cut {_listed(cut)}")
    replaced = [f"{row['count']} {row['operator']} by {row['by']}" for row in told.get("replaced", [])]
    return [*lines, f"surgery replaced {_listed(replaced)}"] if replaced else lines


def _depth(told: Mapping[str, Any]) -> list[str]:
    """Blocks in the order they were dropped, with the model's cost then; and the dearest of those left."""
    blocks = told.get("blocks", [])
    gone = sorted((row for row in blocks if row["dropped"] is not None), key=lambda row: row["dropped"])
    if not gone:
        return []
    said = ", ".join(f"{row['block']} ({_cost(row, 'after_')})" for row in gone)
    lines = [f"depth dropped {len(gone)} of {len(blocks)} residual blocks, the model without each: {said}"]
    left = [row for row in blocks if row["dropped"] is None and row["loss_change"] is not None]
    if left:
        dearest = max(left, key=lambda row: (row["loss_change"], row["output_change"] or 0.0))
        lines.append(f"depth kept {len(left)}; without {dearest['block']} alone: {_cost(dearest, '')}")
    return lines


def _cost(row: Mapping[str, Any], prefix: str) -> str:
    loss, change = row[f"{prefix}loss_change"], row[f"{prefix}output_change"]
    if loss is None or change is None:
        return "breaks"
    return f"outputs move by {change:.1%}" + (f", loss {loss:+.4g}" if loss else "")


def _sparsity(told: Mapping[str, Any]) -> list[str]:
    rows = told.get("zeros", [])
    if not rows:
        return []
    dense = [row["weight"] for row in rows if row["dense"]]
    zeros, total = sum(row["zeros"] for row in rows), sum(row["elements"] for row in rows)
    line = f"sparsify set {zeros} of {total} weights to zero ({zeros / total:.1%})"
    return [f"{line}; dense stay {_listed(dense)}" if dense else line]


def _recovery(node: str, told: Mapping[str, Any]) -> list[str]:
    """What was done about an int8 file below the accuracy floor, and what came of it."""
    steps, name = told.get("recovery", []), f"int8{node.removeprefix('quantize').replace(':', ' for ')}"
    if not steps:
        return []
    begin, floor, metric = steps[0]["accuracy_before"], told["accuracy_floor"], told["metric"]
    missed = f" missed the floor of {floor:.4f}" if begin < floor else f" met the floor of {floor:.4f}"
    reasons = {str(step.get("reason", "")) for step in steps}
    said = "; ".join(_step(step, metric) for step in steps)
    if len(steps) > 1 and len(reasons) == 1 and reasons != {""}:
        said = f"nothing was tried, for {reasons.pop()}"
    lines = [f"{name}, {metric} {begin:.4f},{missed}: {said}"]
    return (
        lines if told["accuracy"] >= floor or said.startswith("nothing") else [f"{lines[0]}; it stays below the floor"]
    )


def _step(step: Mapping[str, Any], metric: str) -> str:
    what = {"qat": "training", "mixed_precision": "mixed precision"}[step["step"]]
    if "reason" in step:
        return f"no {what}, for {step['reason']}"
    reached = (
        f"brought {metric} {step['accuracy']:.4f}" if step["kept"] else f"reached {step['accuracy']:.4f}, not kept"
    )
    if step.get("stopped"):
        reached += f" in {step['epochs_run']} of {step['epochs']} epochs ({step['stopped']})"
    layers = step.get("float_layers")
    return f"{what} {reached}" + (
        f" with {counted(len(layers), 'layer')} in float ({_listed(layers)})" if layers else ""
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
