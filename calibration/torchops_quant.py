"""QuantizeLinear and DequantizeLinear in torch, by straight-through estimation with learnable scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from calibration.torchops_base import Call, Op, Refusal

LIMITS: Final[Mapping[torch.dtype, tuple[int, int]]] = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 2**16 - 1),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}
_BY_ELEMENT_TYPE: Final = {2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32}

Bound = int | Tensor


class _Round(torch.autograd.Function):
    """To the nearest integer, halves to even; the gradient passes unchanged."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:  # noqa: ANN401 - torch's own type
        return torch.round(value)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient


class _FakeQuantise(torch.autograd.Function):
    """Quantised and read back, in one step and with little saved for the way back."""

    @staticmethod
    def forward(context: Any, value: Tensor, scale: Tensor, zero: Tensor, low: Bound, high: Bound) -> Tensor:  # noqa: ANN401
        steps = torch.round(value / scale).add_(zero)
        kept = steps.clamp(low, high)  # type: ignore[arg-type]  # both numbers, or both tensors
        context.save_for_backward(value, scale, zero, kept, steps == kept)
        return (kept - zero).mul_(scale)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        value, scale, zero, kept, inside = context.saved_tensors
        passed = gradient * inside
        slope: Tensor | None = None
        if context.needs_input_grad[1]:
            slope = _sum_to((kept - zero) * gradient - passed * value / scale, scale)
        return passed, slope, None, None, None


def round_through(value: Tensor) -> Tensor:
    """Rounded to nearest even; the gradient passes unchanged (straight-through)."""
    rounded: Tensor = _Round.apply(value)  # type: ignore[no-untyped-call]
    return rounded


def fake_quantise(value: Tensor, scale: Tensor, zero: Tensor, low: Bound, high: Bound) -> Tensor:
    """``(clamp(round(value / scale) + zero, low, high) - zero) * scale``, with gradients.

    Values inside pass their gradient unchanged, values beyond the limits get none. The scale's gradient is that of
    Esser et al., arXiv 1902.08153, eq. 3: ``round(v / s) - v / s`` inside, the limit (less the zero point) outside.

    Args:
        value: Any shape.
        scale: Broadcasts against ``value``.
        zero: Broadcasts against ``value``; gets no gradient.
        low: Smallest integer, or a tensor of them that broadcasts against ``value``, as ``high``.
        high: Largest integer.
    """
    result: Tensor = _FakeQuantise.apply(value, scale, zero.to(value.dtype), low, high)  # type: ignore[no-untyped-call]
    return result


def limits_of(call: Call) -> tuple[int, int]:
    """The integers a QuantizeLinear may give."""
    zero = call.optional(2)
    dtype = torch.uint8 if zero is None else zero.dtype
    if zero is None and call.integer("output_dtype", 0):
        dtype = _BY_ELEMENT_TYPE[call.integer("output_dtype", 0)]
    return LIMITS[dtype]


def along(call: Call, index: int, value: Tensor) -> Tensor:
    """A scale or zero point laid along the axis it belongs to; zero where it is left out."""
    parameter = call.optional(index)
    if parameter is None:
        return torch.zeros((), dtype=value.dtype)
    if parameter.ndim == 0:
        return parameter
    axis = call.integer("axis", 1) % max(value.ndim, 1)
    return parameter.reshape([-1 if i == axis else 1 for i in range(value.ndim)])


def _quantise(call: Call) -> Tensor:
    """Integers, kept in floating point so that gradients pass."""
    value = call.tensor(0)
    low, high = limits_of(call)
    scale, zero = along(call, 1, value), along(call, 2, value)
    return torch.clamp(round_through(value / scale) + zero.to(value.dtype), low, high)


def _dequantise(call: Call) -> Tensor:
    scale = call.tensor(1)
    value = call.tensor(0).to(scale.dtype)
    return (value - along(call, 2, value).to(scale.dtype)) * along(call, 1, value)


def quantise_dequantise(call: Call) -> Tensor:
    """A QuantizeLinear whose integers are read back at once."""
    value = call.tensor(0)
    low, high = limits_of(call)
    return fake_quantise(value, along(call, 1, value), along(call, 2, value), low, high)


def _sum_to(gradient: Tensor, scale: Tensor) -> Tensor:
    return gradient.sum_to_size(scale.shape) if scale.ndim else gradient.sum()


def _refuse(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
    if int(attributes.get("block_size", 0)):
        return "blocks of weights"
    return None if int(attributes.get("output_dtype", 0)) in {0, *_BY_ELEMENT_TYPE} else "its integer type"


OPS: Final[Mapping[str, Op]] = {"QuantizeLinear": _quantise, "DequantizeLinear": _dequantise}

REFUSALS: Final[Mapping[str, Refusal]] = {"QuantizeLinear": _refuse, "DequantizeLinear": _refuse}
