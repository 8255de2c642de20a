"""The reference a pruned graph is measured by: the dense graph whose consumers do not see the removed units.

Weights are set to zero where a unit is read, not where it is made: sigmoid(0) is not 0, and a batch norm has a bias.
Where an activation is read by another (a sum, the product of queries and keys), it is multiplied by a mask there. An
operator that takes a statistic over removed units is replaced by one that leaves them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from pipeline.graph.copying import copy_graph
from pipeline.pruning.dims import labelled
from pipeline.pruning.rules import propagate
from pipeline.pruning.statistics import leave_out
from pipeline.pruning.surgery import named_tensors, removed_labels

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.pruning.decisions import Decisions
    from pipeline.pruning.labels import Flags
    from pipeline.pruning.propagate import Propagation, Read


def mask_decisions(gm: fx.GraphModule, decisions: Decisions) -> fx.GraphModule:
    """A copy of ``gm``, as large as it, in which nothing reads a removed unit.

    Raises:
        InputError: The decisions do not fit the graph.
    """
    masked = copy_graph(gm)
    p = propagate(masked, statistics=decisions.statistics)
    gone = removed_labels(p, decisions)
    _zero_weights(masked, p, gone)
    for number, read in reversed(list(enumerate(p.reads))):  # a statistic's operator is replaced after its readers
        if any(gone[ids].any() for ids in read.dims.values()):
            keep = {axis: torch.from_numpy(~gone[ids]) for axis, ids in read.dims.items()}
            if read.statistic:
                leave_out(masked, read.node, keep, number)
            else:
                _zero_activation(masked, read, keep, number)
    masked.graph.lint()
    masked.recompile()
    return masked


def _zero_weights(gm: fx.GraphModule, p: Propagation, gone: Flags) -> None:
    read = np.zeros(len(p.labels), dtype=bool)
    read[p.consumed()] = True
    tensors = dict(named_tensors(gm))
    with torch.no_grad():
        for name, dims in p.parameters.items():
            for axis, dim in enumerate(dims):
                for ids in labelled(dim):
                    blind = np.flatnonzero(gone[ids] & read[ids])
                    if len(blind):
                        tensors[name].index_fill_(axis, torch.from_numpy(blind).to(tensors[name].device), 0)


def _zero_activation(gm: fx.GraphModule, read: Read, keep: dict[int, Tensor], number: int) -> None:
    value = read.source.meta["val"]
    with gm.graph.inserting_before(read.node):
        blind = read.source
        for axis, kept in keep.items():
            name = f"_kept_{number}_{axis}"
            shape = [1] * value.dim()
            shape[axis] = len(kept)
            gm.register_buffer(name, kept.to(value.dtype).to(value.device).reshape(shape), persistent=False)
            blind = gm.graph.call_function(torch.ops.aten.mul.Tensor, (blind, gm.graph.get_attr(name)))
    read.node.replace_input_with(read.source, blind)
