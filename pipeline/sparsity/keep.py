"""Keeps zeros zero while a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.edits import Sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import fx

    from pipeline.edits import Edit


def zero_keeper(gm: fx.GraphModule, edits: Sequence[Edit]) -> Callable[[], None] | None:
    """What to call after every step of the optimiser; None where no edit made weights zero.

    The weights that are zero now stay so: an optimiser's momentum and weight decay may move them, this moves them back.
    """
    names = {name for edit in edits if isinstance(edit, Sparse) for name in edit.zeros}
    if not names:
        return None
    pairs = [(parameter, (parameter.detach() == 0)) for name in sorted(names) for parameter in [gm.get_parameter(name)]]

    def keep() -> None:
        with torch.no_grad():
            for parameter, gone in pairs:
                parameter.masked_fill_(gone, 0.0)

    return keep
