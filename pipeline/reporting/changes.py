"""What was changed of the model by hand, in depth and in single weights: one line each, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_LISTED: Final = 8


def change_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a run, from the results of its stages by name."""
    return [
        *_surgery(results.get("surgery", {})),
        *_depth(results.get("depth", {})),
        *_sparsity(results.get("sparsify", {})),
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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
