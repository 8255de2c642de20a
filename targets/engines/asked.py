"""How many convolutions and matrix products a model asks to compute in a precision: what a build is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.engines.lint_graph import COMPUTE, DYNAMIC_FORMAT, GraphView

if TYPE_CHECKING:
    import onnx

    from targets.options import Precision

_HALVES: Final = {"fp16": "float16", "bf16": "bfloat16"}
_DYNAMIC: Final = frozenset(DYNAMIC_FORMAT) - {"DynamicQuantizeLinear"}


def asked_for(model: onnx.ModelProto, precision: Precision) -> int | None:
    """Convolutions and matrix products that ``model`` wants in ``precision``.

    Layers that were left in float on purpose are not among them.

    Args:
        model: What was or is to be built.
        precision: What it is to compute in.

    Returns:
        Their number; None where the precision says nothing about single nodes (float32, formats of weights alone).
    """
    if precision == "int8-dynamic":
        return sum(node.op_type in _DYNAMIC for node in model.graph.node)
    if precision != "int8" and precision not in _HALVES:
        return None
    view = GraphView(model)
    compute = [node for node in view.nodes if node.op_type in COMPUTE]
    if precision == "int8":
        return sum(view.reads_integers(node) for node in compute)
    return sum(_type(view, node) == _HALVES[precision] for node in compute)


def _type(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Of the weight, which the file always says, else of the activation."""
    names = reversed(node.input[:2])
    return next((found for name in names if (found := view.type_of(name)) is not None), None)
