"""Fewer samples for steps that need no more, spread over the whole set."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibration.samples import CalibrationSet


def spread(samples: CalibrationSet, most: int, graph: ir.Graph) -> CalibrationSet:
    """Every n-th sample, at most ``most``; all of them where the model takes only batches of one fixed size."""
    every = -(-len(samples) // max(most, 1))
    fixed = any(
        value.shape is not None and len(value.shape) and isinstance(value.shape[0], int) for value in graph.inputs
    )
    return samples if every == 1 or (fixed and samples.batch_size > 1) else samples.split(every)[1]
