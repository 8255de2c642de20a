"""Says before any build what TensorRT refuses in a graph with Q/DQ: each rule is an answer of TensorRT's parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.engines.lint_graph import COMPUTE, DYNAMIC_FORMAT, OPERATOR_FORMAT, GraphView, fault, scale_faults

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from targets.errors import Fault

_FIX: Final = "quantise with scheme 'trt'"
_BIAS: Final = 2
_ZERO_POINT: Final = 2
_TYPES: Final = frozenset({"int8", "int4", "float8_e4m3fn"})
_UNREAD: Final = frozenset({"uint16", "int16"})


def lint_tensorrt(model: onnx.ModelProto, path: Path | None = None) -> list[Fault]:
    """Faults of an opened model, in graph order within each rule; a float model has none.

    Rules: zero points are 0, of a signed type and stored (a scale may be laid out by a node); scales are positive, and
    constant; a scale and its zero point have one size; activations have one scale; weights have one, or one for each
    index of their axis; biases are float; floating types around one operator agree; no operator that reads or writes
    integers itself (QLinearConv, ...).
    """
    view = GraphView(model, path)
    return [
        *_operator_format(view),
        *_zero_points(view),
        *scale_faults(view),
        *_activation_axes(view),
        *_weight_axes(view),
        *_biases(view),
        *_float_types(view),
    ]


def _operator_format(view: GraphView) -> list[Fault]:
    return [
        fault(node, f"TensorRT has no {node.op_type}", f"write explicit Q/DQ: {_FIX}")
        for node in view.nodes
        if node.op_type.startswith((*OPERATOR_FORMAT, *DYNAMIC_FORMAT))
    ]


def _zero_points(view: GraphView) -> list[Fault]:
    found = []
    for node in view.quantisers():
        zero, kind = view.zero_point(node), view.integer_type(node)
        if zero is None and kind != "int8":
            found.append(fault(node, "it has no zero point, which means uint8", f"write int8 zero points of 0: {_FIX}"))
        elif kind in _UNREAD:
            found.append(fault(node, f"TensorRT takes no {kind} here", f"use int8: {_FIX}"))
        elif zero is not None and zero.any():
            found.append(fault(node, "its zero point is not 0", f"quantise symmetrically: {_FIX}"))
        elif zero is not None and _is_laid_out(view, node):
            found.append(fault(node, "its zero point is laid out by a node", "store one zero point for each scale"))
        elif kind == "uint8" or (kind is not None and kind not in _TYPES and not _is_bias(view, node)):
            found.append(fault(node, f"TensorRT takes no {kind} here", f"use int8: {_FIX}"))
    return found


def _is_laid_out(view: GraphView, quantiser: onnx.NodeProto) -> bool:
    """Whether an operator reads the integers of a zero point: TensorRT has constants of 8 bits for Q and DQ alone."""
    maker = view.maker(quantiser.input[_ZERO_POINT])
    return maker is not None and maker.op_type == "Expand"


def _is_bias(view: GraphView, dequantiser: onnx.NodeProto) -> bool:
    name = dequantiser.output[0]
    return any(len(n.input) > _BIAS and n.input[_BIAS] == name for n in view.readers(name) if n.op_type in COMPUTE)


def _activation_axes(view: GraphView) -> list[Fault]:
    found = []
    for node in view.quantisers():
        scale = view.constant(node.input[1])
        weight = view.constant(node.input[0]) is not None
        maker = view.maker(node.input[0])
        if maker is not None and maker.op_type == "QuantizeLinear":  # Q then DQ of a float weight
            weight = view.constant(maker.input[0]) is not None
        if scale is not None and scale.size > 1 and not weight:
            found.append(fault(node, "an activation has one scale for each channel", f"use one scale: {_FIX}"))
    return found


def _weight_axes(view: GraphView) -> list[Fault]:
    found = []
    for node in view.quantisers():
        scale, weight = view.constant(node.input[1]), view.constant(node.input[0])
        axis = next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale is None or weight is None or scale.ndim != 1 or scale.size == 1:
            continue
        if not -weight.ndim <= axis < weight.ndim or weight.shape[axis] != scale.size:
            what = f"it has {scale.size} scales along axis {axis} of a tensor of shape {[*weight.shape]}"
            found.append(fault(node, what, "write one scale for each index of the axis"))
    return found


def _biases(view: GraphView) -> list[Fault]:
    return [
        fault(node, "its bias is stored as integers", f"leave the bias in float: {_FIX}")
        for node in view.nodes
        if node.op_type in COMPUTE and view.dequantised(node, _BIAS) is not None
    ]


def _float_types(view: GraphView) -> list[Fault]:
    found = []
    for node in view.nodes:
        if node.op_type == "QuantizeLinear":
            pair = {view.type_of(node.input[0]), view.type_of(node.input[1])} - {None}
        elif node.op_type in COMPUTE:
            pair = {view.type_of(name) for name in node.input if name} - {None}
        else:
            continue
        if len(pair) > 1:
            what = f"its inputs are of types {' and '.join(sorted(str(kind) for kind in pair))}"
            found.append(fault(node, what, "give scales the type of the graph around them (float16 needs opset 19)"))
    return found
