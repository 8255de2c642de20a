"""Tensors that hold infinities on purpose: masks of attention and what they are added to, until a Softmax ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from calibration.initializers import constant

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

_CARRIES: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Where", "Pad", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze"}
    | {"Unsqueeze", "Expand", "Tile", "Slice", "Gather", "GatherND", "Split", "ScatterND", "ScatterElements", "Trilu"}
    | {"Cast", "Identity"}
)
"""Operators whose output is infinite where an input is; that of a Softmax, or of a Clip with such a bound, is not."""


def infinite_tensors(graph: ir.Graph) -> frozenset[str]:
    """Results of nodes of a prepared graph that are infinite because a constant that they come from is.

    No integer holds such a value, so they stay float and nobody measures their range.
    """
    constants: dict[str, bool] = {}
    found: set[str] = set()
    for node in graph:
        if node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            carries = fill is not None and _infinite(fill.as_tensor().numpy())
        else:
            carries = node.op_type in _CARRIES and any(_holds(value, found, constants) for value in node.inputs)
        if carries:
            found.update(str(value.name) for value in node.outputs)
    return frozenset(found)


def _holds(value: ir.Value | None, found: set[str], constants: dict[str, bool]) -> bool:
    if value is None:
        return False
    name = str(value.name)
    if name not in constants:
        array = constant(value)
        constants[name] = array is not None and _infinite(array)
    return name in found or constants[name]


def _infinite(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind == "f" and bool(np.isinf(array).any())
