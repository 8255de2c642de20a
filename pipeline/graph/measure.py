"""Counts what a graph costs: multiply-accumulates for one sample, and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload


def count_parameters(module: nn.Module) -> int:
    """Number of parameter elements, tied parameters counted once, buffers not at all."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(gm: fx.GraphModule, example: Mapping[str, Tensor]) -> int:
    """Multiply-accumulates of convolutions and matrix products, for one sample.

    Args:
        gm: The graph; it runs once on shapes only (meta tensors), no arithmetic is done.
        example: One array a graph input, axis 0 the batch.

    Returns:
        The count for the whole batch divided by the batch size.
    """
    counter = _Counter(gm)
    values = [value.to("meta") for value in example.values()]
    with torch.no_grad():
        counter.run(*values)
    return counter.macs // max(1, values[0].shape[0])


class _Counter(fx.Interpreter):
    """Runs a graph on meta tensors and adds up what its heavy operators do."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.macs = 0

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.to("meta") if isinstance(value, Tensor) else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _TO_DEVICE:
            return args[0]
        out = super().call_function(target, args, kwargs)
        if isinstance(target, OpOverload):
            count = _MACS.get(target._schema.name.removeprefix("aten::"))
            self.macs += count(args, out) if count else 0
        return out


def _convolution(args: Any, out: Tensor) -> int:
    weight: Tensor = args[1]  # (O, I / groups, *kernel)
    return out.numel() * prod(weight.shape[1:])


def _transposed_convolution(args: Any, _out: Tensor) -> int:
    weight: Tensor = args[1]  # (I, O / groups, *kernel)
    x: Tensor = args[0]
    return x.numel() * prod(weight.shape[1:])


def _product(left: int) -> Callable[[Any, Tensor], int]:
    return lambda args, out: out.numel() * int(args[left].shape[-1])


def _attention(args: Any, _out: Tensor) -> int:
    query, key, value = args[:3]  # (..., L, E), (..., S, E), (..., S, V)
    pairs = prod(query.shape[:-1]) * int(key.shape[-2])
    return pairs * int(query.shape[-1] + value.shape[-1])


_TO_DEVICE: Final = {torch.ops.aten.to.device, torch.ops.aten._assert_tensor_metadata.default}
_MACS: Final[Mapping[str, Callable[[Any, Any], int]]] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed_convolution for n in (1, 2, 3)},
    "convolution": _convolution,
    "linear": _product(0),
    "matmul": _product(0),
    "mm": _product(0),
    "bmm": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "scaled_dot_product_attention": _attention,
}
