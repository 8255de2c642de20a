"""How much work each layer is: multiply-accumulates, from the shapes in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from calibration.exposure import Watched, values_per_run
from calibration.prepare import constant, main_nodes

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibration.placed import Placement
    from calibration.samples import CalibrationSet


def macs(prepared: ir.Model, placement: Placement, samples: CalibrationSet, *, threads: int) -> dict[str, float]:
    """Multiply-accumulates of one sample for each node with a quantised weight."""
    nodes = {str(node.name): node for node in main_nodes(prepared.graph) if node.name in placement.weights}
    outputs = {name: str(node.outputs[0].name) for name, node in nodes.items()}
    fixed = [value.shape[0] for value in prepared.graph.inputs if value.shape is not None and len(value.shape)]
    batch = next((size for size in fixed if isinstance(size, int)), 1)
    tensors = Watched(names=(*dict.fromkeys(outputs.values()),), clamped={})
    sizes = values_per_run(prepared, tensors, samples.rows(0, batch), threads=threads)
    found = {}
    for name, node in nodes.items():
        weight = constant(node.inputs[1])
        assert weight is not None
        per_output = weight.size / weight.shape[placement.weights[name][1]]
        made = sizes[outputs[name]] / batch
        if node.op_type == "ConvTranspose":  # each input value meets the kernel once
            stride = node.attributes["strides"].as_ints() if "strides" in node.attributes else [1]
            made /= float(np.prod(stride))
        found[name] = made * per_output
    return found
