"""Constants of an onnx-ir graph: read, added, dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of an initializer of the main graph, None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array: NDArray[np.generic] = value.const_value.numpy()
    return array


def set_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer, called ``name`` or, where that is taken, ``name_``."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drops initializers that no node reads and that are no output."""
    outputs = {value.name for value in graph.outputs}
    for name, value in [*graph.initializers.items()]:
        if not value.uses() and name not in outputs:
            del graph.initializers[name]
