"""Copies an exported graph: operators, arguments, metadata, parameters and ties."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy that shares nothing trainable with the original; tied parameters stay tied."""
    with warnings.catch_warnings():
        # torch copies its own tree descriptions through a class it has deprecated
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
        return copy.deepcopy(gm)
