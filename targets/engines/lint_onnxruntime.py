"""Says before any build what ONNX Runtime refuses in a graph with Q/DQ, and what it runs in float nevertheless."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from targets.engines.lint_graph import (
    COMPUTE,
    OPERATOR_FORMAT,
    QUANTIZE,
    GraphView,
    fault,
    scale_faults,
)

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from targets.errors import Fault

_FIX: Final = "quantise with scheme 'ort-x86' (or the one of the target's profile)"
_PER_CHANNEL_OPSET: Final = 13
_WEIGHT: Final = 1
_WIDE: Final = frozenset({"int16", "uint16"})


def lint_onnxruntime(model: onnx.ModelProto, path: Path | None = None) -> list[Fault]:
    """What must not be built: broken Q/DQ, and operators outside the explicit Q/DQ form; a float model has none."""
    view = GraphView(model, path)
    return [*_operator_format(view), *scale_faults(view), *_axes(view), *_pairs(view)]


def warn_onnxruntime(model: onnx.ModelProto, path: Path | None = None) -> list[Fault]:
    """What runs and is slow: integer inputs whose operator will not become an integer operator on x86.

    Measured on a residual net (time relative to float): uint8 activations and int8 weights 0.30, int8 asymmetric 1.12,
    int8 symmetric 1.24; uint8 weights are slower than float.
    """
    view = GraphView(model, path)
    return [*_signed(view), *_float_outputs(view), *_unsigned_weights(view)]


def lint_wide(model: onnx.ModelProto, path: Path | None = None) -> list[Fault]:
    """Quantised activations of 16 bits, for providers that compute them in float: all but QNN's, as seen with 1.32."""
    view = GraphView(model, path)
    return [
        fault(node, f"its activation is {kind}: this provider computes it in float, slower than the float model", _FIX)
        for node in view.quantisers()
        if (kind := view.integer_type(node)) in _WIDE and view.constant(node.input[0]) is None
    ]


def _operator_format(view: GraphView) -> list[Fault]:
    return [
        fault(node, "it is in operator format, whose integers nothing else can read", f"write explicit Q/DQ: {_FIX}")
        for node in view.nodes
        if node.op_type.startswith(OPERATOR_FORMAT)
    ]


def _axes(view: GraphView) -> list[Fault]:
    found = []
    for node in view.quantisers():
        scale, values = view.constant(node.input[1]), view.constant(node.input[0])
        if scale is None or scale.ndim != 1 or scale.size == 1 or _attribute(node, "block_size", 0):
            continue
        axis = _attribute(node, "axis", 1)
        if view.opset < _PER_CHANNEL_OPSET:
            what = f"one scale for each channel needs opset {_PER_CHANNEL_OPSET}, the model has {view.opset}"
            found.append(fault(node, what, "convert the model to a newer opset"))
        elif values is not None and not (-values.ndim <= axis < values.ndim and values.shape[axis] == scale.size):
            what = f"it has {scale.size} scales along axis {axis} of a tensor of shape {[*values.shape]}"
            found.append(fault(node, what, "write one scale for each index of the axis"))
    return found


def _pairs(view: GraphView) -> list[Fault]:
    """A DequantizeLinear must read integers as they were written."""
    found = []
    for node in view.quantisers():
        maker = view.maker(node.input[0])
        if node.op_type == QUANTIZE or maker is None or maker.op_type != QUANTIZE:
            continue
        written, read = view.integer_type(maker), view.integer_type(node)
        if written != read:
            found.append(fault(node, f"it reads {read}, its QuantizeLinear writes {written}", _FIX))
    return found


def _signed(view: GraphView) -> list[Fault]:
    found = []
    for node in filter(view.reads_integers, view.nodes):
        source = view.dequantised(node, 0)
        if source is not None and view.integer_type(source) == "int8":
            what = "its activation is int8: on x86 the sums, pools and Relus around it stay float"
            found.append(fault(node, what, f"use uint8 activations: {_FIX}"))
    return found


def _float_outputs(view: GraphView) -> list[Fault]:
    found = []
    for node in filter(view.reads_integers, view.nodes):
        if node.op_type == "ConvTranspose":
            found.append(fault(node, "ONNX Runtime has no integer ConvTranspose", "leave it in float"))
        elif not view.gives_integers(node):
            found.append(fault(node, "it reads integers and its output is float: it runs in float", _FIX))
    return found


def _unsigned_weights(view: GraphView) -> list[Fault]:
    return [
        fault(node, "its weight is uint8, which is slower than float", f"use int8 weights: {_FIX}")
        for node in view.nodes
        if node.op_type in COMPUTE and (weight := view.stored(node, _WEIGHT)) is not None and weight.dtype == np.uint8
    ]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)
