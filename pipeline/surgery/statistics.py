"""Statistics of batch normalisations that took the place of others: measured on real samples, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from pipeline.graph.operators import arguments, operator_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


def measure_statistics(gm: fx.GraphModule, inputs: Mapping[str, Tensor], means: AbstractSet[str]) -> None:
    """Sets the running statistics of batch norms, in place, from one batch.

    Each sees what those before it give with their statistics already set, so one pass is enough.

    Args:
        gm: The graph.
        inputs: The samples, in the order of its inputs.
        means: Names of the running means of those batch norms.
    """
    with torch.no_grad():
        _Measuring(gm, means).run(*inputs.values())


class _Measuring(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, means: AbstractSet[str]) -> None:
        super().__init__(gm)
        self._means = means

    def run_node(self, n: fx.Node) -> object:
        if n.op == "call_function" and operator_name(n) == "batch_norm":
            given = arguments(n)
            if str(given["running_mean"].target) in self._means:
                x, mean, var = (self.env[given[name]] for name in ("input", "running_mean", "running_var"))
                axes = [axis for axis in range(x.ndim) if axis != 1]
                mean.copy_(x.mean(axes))
                var.copy_(x.var(axes, unbiased=True))
        return super().run_node(n)
