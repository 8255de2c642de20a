"""What a net of given widths costs: parameters, bytes and multiply-accumulates, without training or running it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pipeline.graph import count_macs
from pipeline.pruning.surgery import apply_decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, fx

    from pipeline.pruning.groups import PruningGraph
    from pipeline.pruning.widths import Widths


def parameters_of(gm: fx.GraphModule, graph: PruningGraph) -> Callable[[Widths], float]:
    """Number of parameters, ties counted once, of the net with these widths (groups not named stay whole)."""
    return _sizes({name: (tuple(value.shape), 1.0) for name, value in gm.named_parameters()}, graph)


def bytes_of(gm: fx.GraphModule, graph: PruningGraph) -> Callable[[Widths], float]:
    """Bytes of all parameters and buffers, as the model holds them, of the net with these widths."""
    tensors = dict(gm.named_parameters()) | dict(gm.named_buffers())
    return _sizes({name: (tuple(value.shape), float(value.element_size())) for name, value in tensors.items()}, graph)


def macs_of(gm: fx.GraphModule, graph: PruningGraph, example: Mapping[str, Tensor]) -> Callable[[Widths], float]:
    """Multiply-accumulates of one sample; the graph is cut and counted, once for each set of widths."""
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def cost(widths: Widths) -> float:
        key = tuple(sorted(widths.items()))
        if key not in known:
            small = apply_decisions(gm, graph.decide(_first(graph, widths)))
            known[key] = float(count_macs(small, example))
        return known[key]

    return cost


def _first(graph: PruningGraph, widths: Widths) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Units to remove, whichever: what is left costs the same."""
    return {g.name: np.arange(widths[g.name], g.size, dtype=np.int64) for g in graph.groups if g.name in widths}


def _sizes(tensors: Mapping[str, tuple[tuple[int, ...], float]], graph: PruningGraph) -> Callable[[Widths], float]:
    """The sum over tensors of their number of elements times a weight."""

    def cost(widths: Widths) -> float:
        kept: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for group in graph.groups:
            width = widths.get(group.name, group.size)
            for member in group.members:
                if width < group.size and member.parameter in tensors:  # an index goes with any of its units
                    mask = kept.setdefault((member.parameter, member.axis), np.ones(len(member.units), dtype=bool))
                    mask &= member.units < width
        shapes = {name: list(shape) for name, (shape, _) in tensors.items()}
        for (name, axis), mask in kept.items():
            shapes[name][axis] = int(np.count_nonzero(mask))
        return sum(weight * prod(shapes[name]) for name, (_, weight) in tensors.items())

    return cost
