"""Which parameters of a graph can be made sparse: those that convolutions and matrix products multiply with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from pipeline.graph import copy_graph
from pipeline.graph.operators import operator_name

if TYPE_CHECKING:
    from collections.abc import Iterator

Mask: TypeAlias = NDArray[np.bool_]  # True where the weight is kept, of the parameter's shape
Values: TypeAlias = NDArray[np.float32]

_INPUT_AXIS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **{f"conv{n}d": 1 for n in (1, 2, 3)},  # (O, I / groups, *kernel)
        **{f"conv_transpose{n}d": 0 for n in (1, 2, 3)},  # (I, O / groups, *kernel)
        "linear": 1,  # (O, I)
        **dict.fromkeys(("gru", "lstm"), 1),
        **dict.fromkeys(("matmul", "mm", "bmm", "addmm", "baddbmm"), -2),  # (..., I, O)
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weight:
    """One parameter that can be made sparse.

    Attributes:
        name: Its name in the graph; the first one where it has several.
        input_axis: The axis that products are summed over.
        values: What it holds.
    """

    name: str
    input_axis: int
    values: Values

    @property
    def module(self) -> str:
        """Path of the module that holds it."""
        return self.name.rpartition(".")[0]


def find_weights(gm: fx.GraphModule) -> tuple[Weight, ...]:
    """Every parameter that a convolution, a matrix product or a recurrent layer multiplies with, in graph order."""
    parameters = dict(gm.named_parameters(remove_duplicate=False))
    first = {id(value): name for name, value in reversed(parameters.items())}
    found: dict[int, Weight] = {}
    for node in gm.graph.nodes:
        axis = _INPUT_AXIS.get(operator_name(node)) if node.op == "call_function" else None
        for source in node.all_input_nodes if axis is not None else ():
            value = parameters.get(str(source.target)) if source.op == "get_attr" else None
            if axis is None or value is None or value.ndim < 2 or id(value) in found:  # noqa: PLR2004 - a bias has one
                continue
            found[id(value)] = Weight(
                name=first[id(value)],
                input_axis=axis % value.ndim,
                values=value.detach().to(torch.float32).cpu().numpy(),
            )
    return tuple(found.values())


def with_zeros(gm: fx.GraphModule, masks: Mapping[str, Mask]) -> fx.GraphModule:
    """A copy of ``gm`` whose weights are zero where their mask is False."""
    sparse = copy_graph(gm)
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = sparse.get_parameter(name)
            parameter.masked_fill_(torch.from_numpy(~mask).to(parameter.device), 0.0)
    return sparse


def zeros_of(value: Tensor) -> int:
    """How many elements are exactly zero."""
    return value.numel() - int(torch.count_nonzero(value))


def together(weights: Sequence[Weight]) -> Iterator[tuple[Weight, slice]]:
    """Each weight with its place in the row of all of them."""
    start = 0
    for weight in weights:
        yield weight, slice(start, start + weight.values.size)
        start += weight.values.size
