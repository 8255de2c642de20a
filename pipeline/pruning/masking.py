"""The reference a pruned graph is measured by: the dense graph whose consumers do not see the removed units.

Weights are set to zero where a unit is read, not where it is made: sigmoid(0) is not 0, and a batch norm has a bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from pipeline.graph.copying import copy_graph
from pipeline.pruning.dims import labelled
from pipeline.pruning.rules import propagate
from pipeline.pruning.surgery import removed_labels

if TYPE_CHECKING:
    from pipeline.pruning.decisions import Decisions


def mask_decisions(gm: fx.GraphModule, decisions: Decisions) -> fx.GraphModule:
    """A copy of ``gm``, as large as it, in which every weight that reads a removed unit is zero.

    Raises:
        InputError: The decisions do not fit the graph.
    """
    masked = copy_graph(gm)
    p = propagate(masked)
    removed, roots = removed_labels(p, decisions)
    consumed = p.consumed()
    tensors = dict(masked.named_parameters(remove_duplicate=False)) | dict(masked.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, dims in p.parameters.items():
            for axis, dim in enumerate(dims):
                for ids in labelled(dim):
                    gone = np.flatnonzero(removed[roots[ids]] & np.isin(ids, consumed))
                    if len(gone):
                        tensors[name].index_fill_(axis, torch.from_numpy(gone).to(tensors[name].device), 0)
    return masked
