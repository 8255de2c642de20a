"""Convolutions, matrix products, pooling and normalisation of ONNX in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from calibration.torchops_base import Call, Op, Refusal, wrap_two

_Windows = tuple[list[int], list[int], list[int], list[int], list[int]]

_CONV: Final[Mapping[int, Callable[..., Tensor]]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_BACK: Final[Mapping[int, Callable[..., Tensor]]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX: Final[Mapping[int, Callable[..., Any]]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: Final[Mapping[int, Callable[..., Tensor]]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def _windows(call: Call, shape: Sequence[int], kernel: Sequence[int]) -> _Windows:
    """Kernel, strides, dilations, and padding before and after, for each spatial axis of ``shape`` (N, C, ...)."""
    rank = len(shape) - 2
    size = [int(k) for k in kernel]
    strides = [int(s) for s in call.attributes.get("strides") or [1] * rank]
    dilations = [int(d) for d in call.attributes.get("dilations") or [1] * rank]
    mode = call.text("auto_pad", "NOTSET")
    if mode not in {"SAME_UPPER", "SAME_LOWER"}:
        pads = [int(p) for p in call.attributes.get("pads") or [0] * (2 * rank)]
        pads = [0] * (2 * rank) if mode == "VALID" else pads
        return size, strides, dilations, pads[:rank], pads[rank:]
    before, after = [], []
    for length, k, s, d in zip(shape[2:], size, strides, dilations, strict=True):
        total = max((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return size, strides, dilations, before, after


def _pairs(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Paddings in the order of torch: last axis first."""
    return [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]


def _conv(call: Call) -> Tensor:
    value, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    _, strides, dilations, before, after = _windows(call, value.shape, weight.shape[2:])
    if before != after:
        value = functional.pad(value, _pairs(before, after))
        before = [0] * len(before)
    return _CONV[value.ndim - 2](value, weight, bias, strides, before, dilations, call.integer("group", 1))


def _conv_transpose(call: Call) -> Tensor:
    value, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    rank = value.ndim - 2
    strides = [int(s) for s in call.attributes.get("strides") or [1] * rank]
    dilations = [int(d) for d in call.attributes.get("dilations") or [1] * rank]
    extra = [int(p) for p in call.attributes.get("output_padding") or [0] * rank]
    full = _CONV_BACK[rank](value, weight, None, strides, 0, 0, call.integer("group", 1), dilations)
    pads = [int(p) for p in call.attributes.get("pads") or [0] * (2 * rank)]
    mode, shape = call.text("auto_pad", "NOTSET"), call.attributes.get("output_shape")
    if shape is None and mode in {"SAME_UPPER", "SAME_LOWER"}:
        shape = [length * stride for length, stride in zip(value.shape[2:], strides, strict=True)]
    if shape is not None:
        totals = [size + e - int(wish) for size, e, wish in zip(full.shape[2:], extra, shape, strict=True)]
        low, high = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = [*low, *high] if mode == "SAME_UPPER" else [*high, *low]
    after = [e - p for e, p in zip(extra, pads[rank:], strict=True)]
    full = functional.pad(full, _pairs([-p for p in pads[:rank]], after))
    return full if bias is None else full + bias.reshape(-1, *[1] * rank)


def _extended(length: int, k: int, s: int, d: int, low: int, high: int, *, ceil: bool) -> int:
    """What must be added behind so that a pooling whose size is rounded up has whole windows."""
    span, reach = length + low + high, (k - 1) * d + 1
    if not ceil:
        return high
    count = -(-(span - reach) // s) + 1
    if (count - 1) * s >= length + low:  # a window that would start in the padding behind is left out
        count -= 1
    return high + max((count - 1) * s + reach - span, 0)


def _max_pool(call: Call) -> Tensor:
    value = call.tensor(0)
    size, strides, dilations, before, after = _windows(call, value.shape, call.attributes["kernel_shape"])
    ceil = bool(call.integer("ceil_mode", 0))
    after = [
        _extended(n, k, s, d, low, high, ceil=ceil)
        for n, k, s, d, low, high in zip(value.shape[2:], size, strides, dilations, before, after, strict=True)
    ]
    if any(before) or any(after):
        value = functional.pad(value, _pairs(before, after), value=-torch.inf)
    pooled: Tensor = _MAX[len(size)](value, size, strides, 0, dilations)
    return pooled


def _average_pool(call: Call) -> Tensor:
    value = call.tensor(0)
    size, strides, _, before, after = _windows(call, value.shape, call.attributes["kernel_shape"])
    ceil = bool(call.integer("ceil_mode", 0))
    ends = [
        _extended(n, k, s, 1, low, high, ceil=ceil)
        for n, k, s, low, high in zip(value.shape[2:], size, strides, before, after, strict=True)
    ]
    pool = _AVERAGE[len(size)]
    padded = functional.pad(value, _pairs(before, ends))
    if not any(before) and not any(ends):
        return pool(value, size, strides)
    counted = torch.ones((1, 1, *value.shape[2:]), dtype=value.dtype)
    if call.integer("count_include_pad", 0):
        counted = functional.pad(counted, _pairs(before, after), value=1.0)
        ends = [end - high for end, high in zip(ends, after, strict=True)]
        before = [0] * len(before)
    counted = functional.pad(counted, _pairs(before, ends))
    return pool(padded, size, strides) / pool(counted, size, strides)


def _spatial(value: Tensor) -> list[int]:
    return [*range(2, value.ndim)]


def _gemm(call: Call) -> Tensor:
    left, right, offset = call.tensor(0), call.tensor(1), call.optional(2)
    left = left.transpose(0, 1) if call.integer("transA", 0) else left
    right = right.transpose(0, 1) if call.integer("transB", 0) else right
    product = torch.matmul(left, right)
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    product = product if alpha == 1.0 else product * alpha
    if offset is None:
        return product
    return product + (offset if beta == 1.0 else offset * beta)


def _einsum(call: Call) -> Tensor:
    product: Tensor = torch.einsum(call.text("equation", ""), *[value for value in call.inputs if value is not None])
    return product


def _channels(parameter: Tensor, value: Tensor) -> Tensor:
    return parameter.reshape(1, -1, *[1] * (value.ndim - 2))


def _batch_norm(call: Call) -> Tensor:
    value = call.tensor(0)
    scale, offset, mean, variance = (_channels(call.tensor(i), value) for i in range(1, 5))
    return (value - mean) * (scale / torch.sqrt(variance + call.number("epsilon", 1e-5))) + offset


def _standardised(value: Tensor, axes: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = value.mean(axes, keepdim=True)
    centred = value - mean
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    return centred * inverse, mean, inverse


def _instance_norm(call: Call) -> Tensor:
    value = call.tensor(0)
    normal = _standardised(value, _spatial(value), call.number("epsilon", 1e-5))[0]
    return normal * _channels(call.tensor(1), value) + _channels(call.tensor(2), value)


def _layer_norm(call: Call) -> tuple[Tensor, ...]:
    value, offset = call.tensor(0), call.optional(2)
    axes = [*range(call.integer("axis", -1) % value.ndim, value.ndim)]
    normal, mean, inverse = _standardised(value, axes, call.number("epsilon", 1e-5))
    scaled = normal * call.tensor(1)
    return (scaled if offset is None else scaled + offset, mean, inverse)[: call.outputs]


def _rms_norm(call: Call) -> Tensor:
    value = call.tensor(0)
    axes = [*range(call.integer("axis", -1) % value.ndim, value.ndim)]
    return value * torch.rsqrt(value.square().mean(axes, keepdim=True) + call.number("epsilon", 1e-5)) * call.tensor(1)


def _group_norm(call: Call) -> Tensor:
    value, groups = call.tensor(0), call.integer("num_groups", 1)
    parts = value.reshape(value.shape[0], groups, -1)
    normal = _standardised(parts, [2], call.number("epsilon", 1e-5))[0].reshape(value.shape)
    scale, offset = call.tensor(1), call.tensor(2)
    if scale.numel() != value.shape[1]:  # before opset 21: one for each group
        scale, offset = (p.repeat_interleave(value.shape[1] // groups) for p in (scale, offset))
    return normal * _channels(scale, value) + _channels(offset, value)


def _only_first(_attributes: Mapping[str, Any], outputs: int, _opset: int) -> str | None:
    return "more than its first output" if outputs > 1 else None


def _refuse_average(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
    return "dilations" if any(int(d) != 1 for d in attributes.get("dilations") or []) else None


OPS: Final[Mapping[str, Op]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call: call.tensor(0).mean(_spatial(call.tensor(0)), keepdim=True),
    "GlobalMaxPool": lambda call: torch.amax(call.tensor(0), _spatial(call.tensor(0)), keepdim=True),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": wrap_two(torch.matmul),
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
}

REFUSALS: Final[Mapping[str, Refusal]] = {
    "AveragePool": _refuse_average,
    "BatchNormalization": _only_first,
    "MaxPool": _only_first,
}
