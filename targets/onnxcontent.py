"""What a graph may not hold: nodes that are code, and tensors that it makes larger than any machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from targets.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import onnx

_CODE: Final = frozenset({"EPContext", "PythonOp", "PythonOpGrad", "ATen", "PyOp", "PyCustomOp"})
_SHAPE_INPUT: Final = {"ConstantOfShape": 0, "Expand": 1, "RandomNormal": -1, "RandomUniform": -1}
_MAX_DIMENSIONS: Final = 64
_SHOWN: Final = 8


def check_content(path: Path, bodies: Iterable[Iterable[onnx.NodeProto]], model: onnx.ModelProto, limit: int) -> None:
    """Looks at every node.

    Args:
        path: The model, for messages.
        bodies: The nodes of the graph, of every subgraph and function.
        model: Whose initializers may hold a shape that a node asks for.
        limit: The most elements that one tensor may have.

    Raises:
        RefusedError: A node carries code for a runtime to load.
        InputError: A node makes a tensor over the limit from a shape that stands in the file.
    """
    shapes = {t.name: t for t in model.graph.initializer if len(t.dims) == 1 and t.dims[0] <= _MAX_DIMENSIONS}
    for body in bodies:
        known = dict(shapes)
        for node in body:
            if node.op_type in _CODE:
                raise RefusedError(
                    f"refused: node {node.name or node.op_type!r} of {path.name} is a {node.op_type}",
                    "it hands compiled or foreign code to the runtime",
                    "export the model again without it, from the framework it comes from",
                )
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
                known |= dict.fromkeys(node.output, node.attribute[0].t)
            elif node.op_type in _SHAPE_INPUT:
                _check_made(path, node, known, limit)


def _check_made(path: Path, node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], limit: int) -> None:
    dims = _asked(node, known)
    if any(dim < 0 for dim in dims) or math.prod(dims) <= limit:
        return
    shape = "x".join([*map(str, dims[:_SHOWN]), *("..." for _ in dims[_SHOWN : _SHOWN + 1])])
    raise InputError(
        f"{path.name} asks for a tensor {', '.join(node.output)!r} of shape {shape} ({node.op_type})",
        f"{limit} elements are the limit of one tensor",
        "export the model again; a model of this size is damaged or meant to do harm",
    )


def _asked(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> list[int]:
    """The shape that a node asks for, where it stands in the file; none otherwise."""
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import uses_external_data

    index = _SHAPE_INPUT[node.op_type]
    if index < 0:
        return [int(dim) for attribute in node.attribute if attribute.name == "shape" for dim in attribute.ints]
    tensor = known.get(node.input[index]) if len(node.input) > index else None
    if tensor is None or tensor.data_type != TensorProto.INT64 or uses_external_data(tensor):
        return []
    try:
        return [int(dim) for dim in numpy_helper.to_array(tensor).reshape(-1)]
    except ValueError:
        return []
