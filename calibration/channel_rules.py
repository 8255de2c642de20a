"""How channel labels go through operators: one rule each, from a node to its output's layout, None for unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from calibration.channels import FIXED, Channels, Labels, Layout, Touch
from calibration.initializers import constant
from calibration.rules_weights import int_attribute, text_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx_ir as ir

Array = NDArray[np.generic]
_BIAS: Final = 2
_MATRIX: Final = 2


def _layout(channels: Channels, node: ir.Node, index: int = 0) -> Layout | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return channels.layouts.get(str(value.name)) if value is not None else None


def _read(channels: Channels, node: ir.Node, axis: int, count: int) -> Labels:
    """Labels of what a layer reads along ``axis``; fixed where they lie elsewhere or are not known."""
    layout = _layout(channels, node)
    if layout is not None and layout.axis == axis and len(layout.labels) == count:
        return layout.labels
    channels.fix(node.inputs[0])
    return np.full(count, FIXED)


def _weighted(
    channels: Channels, node: ir.Node, made: Labels, read: Labels, out: Labels, *, axis: int
) -> Layout | None:
    """A layer with weight (input 1) and perhaps bias (input 2)."""
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    offset = constant(bias)
    if bias is not None and (offset is None or offset.dtype != np.float32):
        channels.unite(out, np.array(FIXED))
        channels.fix(bias)
    elif offset is not None:
        channels.touches.append(Touch(node=node, index=_BIAS, made=out, read=None, kind="offset"))
    channels.touches.append(Touch(node=node, index=1, made=made, read=read, kind="weight"))
    return Layout(axis=axis, labels=out)


def _weight(node: ir.Node) -> Array | None:
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return array if array is not None and array.dtype == np.float32 and array.size else None


def _conv(channels: Channels, node: ir.Node) -> Layout | None:
    weight = _weight(node)
    if weight is None:
        return None
    groups, outs = int_attribute(node, "group", 1), weight.shape[0]
    inner = weight.shape[1]
    read = _read(channels, node, 1, inner * groups)
    chosen = (np.arange(outs) // (outs // groups))[:, None] * inner + np.arange(inner)
    tail = (1,) * (weight.ndim - 2)
    out = channels.fresh(outs)
    return _weighted(channels, node, out.reshape(-1, 1, *tail), read[chosen].reshape(outs, inner, *tail), out, axis=1)


def _conv_transpose(channels: Channels, node: ir.Node) -> Layout | None:
    weight = _weight(node)
    if weight is None:
        return None
    groups, ins, inner = int_attribute(node, "group", 1), weight.shape[0], weight.shape[1]
    read = _read(channels, node, 1, ins)
    out = channels.fresh(inner * groups)
    chosen = (np.arange(ins) // (ins // groups))[:, None] * inner + np.arange(inner)
    tail = (1,) * (weight.ndim - 2)
    made = out[chosen].reshape(ins, inner, *tail)
    return _weighted(channels, node, made, read.reshape(-1, 1, *tail), out, axis=1)


def _gemm(channels: Channels, node: ir.Node) -> Layout | None:
    weight = _weight(node)
    if weight is None or int_attribute(node, "transA", 0):
        return None
    rows = bool(int_attribute(node, "transB", 0))
    ins, outs = weight.shape[1 if rows else 0], weight.shape[0 if rows else 1]
    read, out = _read(channels, node, 1, ins), channels.fresh(outs)
    made, taken = (out[:, None], read[None, :]) if rows else (out[None, :], read[:, None])
    return _weighted(channels, node, made, taken, out, axis=1)


def _matmul(channels: Channels, node: ir.Node) -> Layout | None:
    weight, rank = _weight(node), _rank(node.inputs[0])
    if weight is None or weight.ndim != _MATRIX or rank is None:
        return None
    read, out = _read(channels, node, rank - 1, weight.shape[0]), channels.fresh(weight.shape[1])
    return _weighted(channels, node, out[None, :], read[:, None], out, axis=rank - 1)


def _norm(channels: Channels, node: ir.Node) -> Layout | None:
    """Scale and offset over the last axis, behind the division: they may take up any factor."""
    rank = _rank(node.inputs[0])
    axis = int_attribute(node, "axis", -1)
    if rank is None or axis % rank != rank - 1:
        return None
    return _scaled(channels, node, rank - 1)


def _channel_norm(channels: Channels, node: ir.Node) -> Layout | None:
    return _scaled(channels, node, 1)


def _scaled(channels: Channels, node: ir.Node, axis: int) -> Layout | None:
    channels.fix(node.inputs[0])
    parts = [constant(value) for value in node.inputs[1:3] if value is not None]
    if not parts or any(part is None or part.dtype != np.float32 or part.ndim != 1 for part in parts):
        return None
    first = parts[0]
    assert first is not None
    out = channels.fresh(len(first))
    for index, value in enumerate(node.inputs[1:3], start=1):
        if value is not None:
            channels.touches.append(Touch(node=node, index=index, made=out, read=None, kind="norm"))
    return Layout(axis=axis, labels=out)


def _same(channels: Channels, node: ir.Node) -> Layout | None:
    return _layout(channels, node)


def _pool(channels: Channels, node: ir.Node) -> Layout | None:
    layout = _layout(channels, node)
    return layout if layout is not None and layout.axis == 1 else None


def _clip(channels: Channels, node: ir.Node) -> Layout | None:
    """Clip from zero up, without a cap: a cap would be another one for each channel."""
    bounds = [constant(value) for value in node.inputs[1:3] if value is not None]
    low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    high = constant(node.inputs[2]) if len(node.inputs) > 2 else None  # noqa: PLR2004 - Clip(x, low, high)
    if any(bound is None for bound in bounds) or (low is not None and low.any() and np.isfinite(low).all()):
        return None
    return _layout(channels, node) if high is None or bool(np.all(high == np.inf)) else None


def _prelu(channels: Channels, node: ir.Node) -> Layout | None:
    return _layout(channels, node) if constant(node.inputs[1]) is not None else None


def _sum(channels: Channels, node: ir.Node) -> Layout | None:
    """Sums, and the larger or smaller of two: a constant follows, two activations share their labels."""
    arrays = [constant(value) for value in node.inputs]
    shape = node.outputs[0].shape
    if len(node.inputs) != 2 or shape is None:  # noqa: PLR2004 - the binary form
        return None
    if all(array is None for array in arrays):
        return _joined(channels, node)
    index = 0 if arrays[0] is None else 1
    layout, offset = _layout(channels, node, index), arrays[1 - index]
    if layout is None or offset is None or offset.dtype != np.float32 or not _keeps_shape(node, index):
        return None
    place = len(shape) - layout.axis  # counted from the end, as broadcasting does
    labels = layout.labels.reshape(-1, *(1,) * (place - 1))
    if offset.ndim > len(shape):
        return None
    channels.touches.append(Touch(node=node, index=1 - index, made=labels, read=None, kind="offset"))
    return layout


def _joined(channels: Channels, node: ir.Node) -> Layout | None:
    first, second = _layout(channels, node, 0), _layout(channels, node, 1)
    if first is None or second is None or first.axis != second.axis:
        return None
    if not (_keeps_shape(node, 0) and _keeps_shape(node, 1)) or len(first.labels) != len(second.labels):
        return None
    channels.unite(first.labels, second.labels)
    return first


def _times_constant(channels: Channels, node: ir.Node) -> Layout | None:
    """A product with a constant, or a quotient by one, keeps the scale of the other operand."""
    arrays = [constant(value) for value in node.inputs]
    index = 0 if arrays[0] is None else 1
    factor = arrays[1 - index]
    if factor is None or not _keeps_shape(node, index) or (node.op_type == "Div" and index == 1):
        return None
    layout = _layout(channels, node, index)
    return layout if layout is not None or node.op_type == "Div" else _own_scale(channels, node, 1 - index, factor)


def _own_scale(channels: Channels, node: ir.Node, index: int, factor: Array) -> Layout | None:
    """The scale of a normalisation written out, or of a layer: one factor for each index of the last axis."""
    shape = node.outputs[0].shape
    if shape is None or factor.dtype != np.float32 or factor.ndim == 0 or factor.ndim > len(shape):
        return None
    if factor.shape[-1] != factor.size or factor.size != shape[-1]:
        return None
    out = channels.fresh(factor.size)
    channels.touches.append(Touch(node=node, index=index, made=out, read=None, kind="norm"))
    return Layout(axis=len(shape) - 1, labels=out)


def _concat(channels: Channels, node: ir.Node) -> Layout | None:
    layouts = [_layout(channels, node, index) for index in range(len(node.inputs))]
    rank = _rank(node.outputs[0])
    known = [layout for layout in layouts if layout is not None]
    if rank is None or len(known) < len(layouts) or len({layout.axis for layout in known}) != 1:
        return None
    first = known[0]
    if int_attribute(node, "axis", 0) % rank == first.axis:
        return Layout(axis=first.axis, labels=np.concatenate([layout.labels for layout in known]))
    for layout in known[1:]:
        channels.unite(first.labels, layout.labels)
    return first


def _slice(channels: Channels, node: ir.Node) -> Layout | None:
    layout, rank = _layout(channels, node), _rank(node.inputs[0])
    parts = [constant(value) for value in node.inputs[1:]]
    if layout is None or rank is None or any(part is None for part in parts):
        return None
    starts, ends = (part.tolist() for part in parts[:2] if part is not None)
    axes = parts[2].tolist() if len(parts) > 2 and parts[2] is not None else [*range(len(starts))]  # noqa: PLR2004
    steps = parts[3].tolist() if len(parts) > 3 and parts[3] is not None else [1] * len(starts)  # noqa: PLR2004
    labels = layout.labels
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if int(axis) % rank == layout.axis:
            if step < 0:
                return None
            labels = labels[int(start) : int(end) : int(step)]
    return Layout(axis=layout.axis, labels=labels)


def _pad(channels: Channels, node: ir.Node) -> Layout | None:
    """Padding with zeros: a channel of zeros has any scale."""
    layout, rank = _layout(channels, node), _rank(node.inputs[0])
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    filling = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004 - Pad(data, pads, value, axes)
    number = constant(filling)
    zero = filling is None or (number is not None and not number.any())
    if layout is None or rank is None or pads is None or len(node.inputs) > 3 or pads.size != 2 * rank:  # noqa: PLR2004
        return None
    before, after = (int(pads[layout.axis + offset]) for offset in (0, rank))
    mode = text_attribute(node, "mode", "constant")
    if mode == "constant" and not zero:
        return None
    if before == after == 0:
        return layout
    if mode != "constant" or before < 0 or after < 0:
        return None
    labels = (channels.fresh(before), layout.labels, channels.fresh(after))
    return Layout(axis=layout.axis, labels=np.concatenate(labels))


def _reduce(channels: Channels, node: ir.Node) -> Layout | None:
    layout, rank = _layout(channels, node), _rank(node.inputs[0])
    listed = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = listed.tolist() if listed is not None else []
    if "axes" in node.attributes:
        axes = [*node.attributes["axes"].as_ints()]
    if layout is None or rank is None or not axes or layout.axis in {int(axis) % rank for axis in axes}:
        return None
    dropped = 0 if int_attribute(node, "keepdims", 1) else sum(int(axis) % rank < layout.axis for axis in axes)
    return Layout(axis=layout.axis - dropped, labels=layout.labels)


def _transpose(channels: Channels, node: ir.Node) -> Layout | None:
    layout = _layout(channels, node)
    if layout is None or "perm" not in node.attributes:
        return None
    return Layout(axis=[*node.attributes["perm"].as_ints()].index(layout.axis), labels=layout.labels)


def _reshape(channels: Channels, node: ir.Node) -> Layout | None:
    """Finds the channel axis again by what lies behind it; one that swallowed it repeats its labels."""
    layout, source, target = _layout(channels, node), node.inputs[0], node.outputs[0]
    if layout is None or source is None or source.shape is None or target.shape is None:
        return None
    behind = _product([*source.shape][layout.axis + 1 :])
    if behind is None:
        return None
    count = len(layout.labels)
    for axis, size in enumerate(target.shape):
        rest = _product([*target.shape][axis + 1 :])
        if rest == behind and size == count:
            return Layout(axis=axis, labels=layout.labels)
        if rest == 1 and size == count * behind and axis == len(target.shape) - 1:
            return Layout(axis=axis, labels=np.repeat(layout.labels, behind))
    return None


def _resize(channels: Channels, node: ir.Node) -> Layout | None:
    layout, source, target = _layout(channels, node), node.inputs[0], node.outputs[0]
    if layout is None or source is None or source.shape is None or target.shape is None:
        return None
    crops = text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    same = isinstance(source.shape[layout.axis], int) and source.shape[layout.axis] == target.shape[layout.axis]
    return layout if same and not crops else None


def _product(sizes: list[object]) -> int | None:
    total = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        total *= size
    return total


def _rank(value: ir.Value | None) -> int | None:
    return len(value.shape) if value is not None and value.shape is not None else None


def _keeps_shape(node: ir.Node, index: int) -> bool:
    """Whether an operand is not broadcast."""
    value, output = node.inputs[index], node.outputs[0]
    if value is None or value.shape is None or output.shape is None:
        return False
    return len(value.shape) == len(output.shape) and all(a == b for a, b in zip(value.shape, output.shape, strict=True))


RULES: Final[Mapping[str, Callable[[Channels, ir.Node], Layout | None]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"), _norm),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _channel_norm),
    **dict.fromkeys(("Relu", "LeakyRelu", "Identity", "Abs", "Neg"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("Add", "Sub", "Max", "Min"), _sum),
    **dict.fromkeys(("Mul", "Div"), _times_constant),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduce),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Clip": _clip,
    "PRelu": _prelu,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Transpose": _transpose,
    "Resize": _resize,
}
"""Operator -> its rule."""
