"""Outputs of a model for a whole split, and torch with a given number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from pipeline.graph import flat_outputs, set_training
from pipeline.training.batches import tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.data import Split


def predict(model: nn.Module, split: Split, *, threads: int, batch_size: int = 256) -> list[npt.NDArray[Any]]:
    """Outputs of ``model`` in evaluation mode for all samples: one array ``(N, ...)`` per output."""
    if isinstance(model, GraphModule):
        set_training(model, training=False)
    else:
        model.eval()
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    with torch_threads(threads), torch.no_grad():
        parts = [
            [output.cpu().numpy() for output in flat_outputs(model(*tensors(batch.inputs, device).values()))]
            for batch in split.batches(batch_size)
        ]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch with ``count`` threads: the number is one for the whole process, so it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
