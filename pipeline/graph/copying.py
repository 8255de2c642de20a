"""Copies an exported graph: operators, arguments, metadata, parameters and ties."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torch import fx


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy that shares nothing trainable with the original; tied parameters stay tied."""
    return _copied(gm, {})


def share_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy whose operators can be changed alone: its parameters, buffers and constants are those of the original."""
    tensors = itertools.chain(
        gm.parameters(),
        gm.buffers(),
        (value for module in gm.modules() for value in vars(module).values() if isinstance(value, Tensor)),
    )
    return _copied(gm, {id(tensor): tensor for tensor in tensors})


def _copied(gm: fx.GraphModule, shared: dict[int, Tensor]) -> fx.GraphModule:
    with warnings.catch_warnings():
        # torch copies its own tree descriptions through a class it has deprecated
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
        return copy.deepcopy(gm, dict(shared))
