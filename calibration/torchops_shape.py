"""Operators of ONNX that move, cut, join or make tensors, in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calibration.torchops_base import Call, Op, Refusal


def _reshape(call: Call) -> Tensor:
    value, shape = call.tensor(0), call.sizes(1, "shape") or []
    if not call.integer("allowzero", 0):
        shape = [value.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return value.reshape(shape)


def _flatten(call: Call) -> Tensor:
    value, axis = call.tensor(0), call.integer("axis", 1)
    axis = axis if axis >= 0 else axis + value.ndim
    return value.reshape(math.prod(value.shape[:axis]), -1)


def _transpose(call: Call) -> Tensor:
    value = call.tensor(0)
    order = call.attributes.get("perm") or [*reversed(range(value.ndim))]
    return value.permute([int(axis) for axis in order])


def _squeeze(call: Call) -> Tensor:
    value, axes = call.tensor(0), call.sizes(1, "axes")
    return value.squeeze() if axes is None else value.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    value, axes = call.tensor(0), call.sizes(1, "axes") or []
    rank = value.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _slice(call: Call) -> Tensor:
    value = call.tensor(0)
    starts, ends = call.sizes(1, "starts") or [], call.sizes(2, "ends") or []
    axes = call.sizes(3, "axes") or [*range(len(starts))]
    steps = call.sizes(4, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(value.shape[axis])
        if step > 0:
            value = value[(slice(None),) * (axis % value.ndim) + (slice(first, max(last, first), stride),)]
        else:
            value = value.index_select(axis, torch.arange(first, last, stride, device=value.device))
    return value


def _split(call: Call) -> tuple[Tensor, ...]:
    value, axis, sizes = call.tensor(0), call.integer("axis", 0), call.sizes(1, "split")
    if sizes is None:
        part = math.ceil(value.shape[axis] / call.outputs)
        sizes = [part] * (call.outputs - 1)
        sizes.append(value.shape[axis] - sum(sizes))
    return tuple(torch.split(value, sizes, dim=axis))


def _concat(call: Call) -> Tensor:
    return torch.cat([value for value in call.inputs if value is not None], dim=call.integer("axis", 0))


def _wrapped(index: Tensor, size: int) -> Tensor:
    index = index.long()
    return torch.where(index < 0, index + size, index)


def _gather(call: Call) -> Tensor:
    value, index, axis = call.tensor(0), call.tensor(1), call.integer("axis", 0)
    axis %= max(value.ndim, 1)
    flat = value.index_select(axis, _wrapped(index, value.shape[axis]).reshape(-1))
    return flat.reshape((*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]))


def _gather_elements(call: Call) -> Tensor:
    value, index, axis = call.tensor(0), call.tensor(1), call.integer("axis", 0)
    return torch.gather(value, axis, _wrapped(index, value.shape[axis]))


def _gather_nd(call: Call) -> Tensor:
    value, index = call.tensor(0), call.tensor(1).long()
    return value[tuple(_wrapped(index[..., i], value.shape[i]) for i in range(index.shape[-1]))]


def _expand(call: Call) -> Tensor:
    value, shape = call.tensor(0), call.sizes(1, "shape") or []
    return value.expand(np.broadcast_shapes(tuple(value.shape), tuple(shape)))


def _shape(call: Call) -> Tensor:
    shape = [*call.tensor(0).shape]
    end = call.attributes.get("end")
    return torch.tensor(shape[call.integer("start", 0) : None if end is None else int(end)], dtype=torch.int64)


def _constant_of_shape(call: Call) -> Tensor:
    value = call.attributes.get("value")
    value = torch.zeros(1) if value is None else value.reshape(-1)
    return value.expand(math.prod(shape := call.sizes(0, "shape") or [])).reshape(shape).clone()


def _constant(call: Call) -> Tensor:
    kinds = {"float": torch.float32, "floats": torch.float32, "int": torch.int64, "ints": torch.int64}
    for name, value in call.attributes.items():
        if name == "value" and isinstance(value, Tensor):
            return value
        if name.removeprefix("value_") in kinds:
            return torch.tensor(value, dtype=kinds[name.removeprefix("value_")])
    raise AssertionError(f"a Constant with {sorted(call.attributes)}")


def _range(call: Call) -> Tensor:
    start, limit, delta = (call.tensor(i) for i in range(3))
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return start + delta * torch.arange(count).to(start.dtype)


def _pad(call: Call) -> Tensor:
    value, pads = call.tensor(0), call.sizes(1, "pads") or []
    axes = call.sizes(3, "axes") or [*range(value.ndim)]
    begins, ends = pads[: len(axes)], pads[len(axes) :]
    mode = call.text("mode", "constant")
    if mode == "constant":
        fill = call.optional(2)
        widths = {axis % value.ndim: pair for axis, *pair in zip(axes, begins, ends, strict=True)}
        flat = [width for axis in reversed(range(value.ndim)) for width in widths.get(axis, [0, 0])]
        return functional.pad(value, flat, value=0.0 if fill is None else float(fill.reshape(-1)[0]))
    for axis, begin, end in zip(axes, begins, ends, strict=True):
        if begin or end:
            places = np.pad(np.arange(value.shape[axis]), (begin, end), mode=mode)  # type: ignore[call-overload]
            value = value.index_select(axis, torch.from_numpy(places))
    return value


def _depth_to_space(call: Call) -> Tensor:
    value, block = call.tensor(0), call.integer("blocksize", 1)
    n, c, h, w = value.shape
    if call.text("mode", "DCR") == "DCR":
        parts = value.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = value.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call) -> Tensor:
    value, block = call.tensor(0), call.integer("blocksize", 1)
    n, c, h, w = value.shape
    parts = value.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


def _triangle(call: Call) -> Tensor:
    value, shift = call.tensor(0), call.optional(1)
    function = torch.triu if call.integer("upper", 1) else torch.tril
    return function(value, 0 if shift is None else int(shift))


def _refuse_constant(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
    text = sorted(name for name in attributes if "string" in name or "sparse" in name)
    return f"a constant given as {text[0]}" if text else None


OPS: Final[Mapping[str, Op]] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": lambda call: call.tensor(0),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda call: call.tensor(0),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda call: torch.tensor(call.tensor(0).numel(), dtype=torch.int64),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda call: call.tensor(0).repeat(call.sizes(1, "repeats") or []),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}

REFUSALS: Final[Mapping[str, Refusal]] = {
    "Constant": _refuse_constant,
    "Dropout": lambda _attributes, outputs, _opset: "its mask output" if outputs > 1 else None,
    "GatherND": lambda attributes, _outputs, _opset: "batch_dims" if int(attributes.get("batch_dims", 0)) else None,
}
