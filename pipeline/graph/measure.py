"""Counts what a graph costs: multiply-accumulates for one sample, and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.graph.operators import operator_name

_Count: TypeAlias = Callable[[Sequence[Tensor], Tensor], int]


def count_parameters(module: nn.Module) -> int:
    """Number of parameter elements, tied parameters counted once, buffers not at all."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(gm: fx.GraphModule, example: Mapping[str, Tensor]) -> int:
    """Multiply-accumulates of convolutions and matrix products, for one sample.

    Args:
        gm: The graph; it runs once on shapes only, no arithmetic is done.
        example: One array a graph input, axis 0 the batch.

    Returns:
        The count for the whole batch divided by the batch size.
    """
    counter = _Counter(gm)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    values = [mode.from_tensor(value) for value in example.values()]
    with mode, torch.no_grad():
        counter.run(*values)
    return counter.macs // values[0].shape[0]


class _Counter(fx.Interpreter):
    """Runs a graph on shapes and adds up what its heavy operators do."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.macs = 0

    def run_node(self, n: fx.Node) -> object:
        out = super().run_node(n)
        count = _MACS.get(operator_name(n))
        if count and isinstance(out, Tensor):
            args, _ = self.fetch_args_kwargs_from_env(n)
            self.macs += count(args, out)
        return out


def _convolution(args: Sequence[Tensor], out: Tensor) -> int:
    return out.numel() * prod(args[1].shape[1:])  # weight (O, I / groups, *kernel)


def _transposed_convolution(args: Sequence[Tensor], _out: Tensor) -> int:
    return args[0].numel() * prod(args[1].shape[1:])  # weight (I, O / groups, *kernel)


def _product(args: Sequence[Tensor], out: Tensor) -> int:
    return out.numel() * args[0].shape[-1]


def _product_and_sum(args: Sequence[Tensor], out: Tensor) -> int:
    return out.numel() * args[1].shape[-1]


def _attention(args: Sequence[Tensor], _out: Tensor) -> int:
    query, key, value = args[:3]  # (..., L, E), (..., S, E), (..., S, V)
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


_MACS: Final[Mapping[str, _Count]] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed_convolution for n in (1, 2, 3)},
    **dict.fromkeys(("linear", "matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _product_and_sum),
    "scaled_dot_product_attention": _attention,
}
