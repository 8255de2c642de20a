"""Which samples come when: the order of an epoch, its steps, and each process's part of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Samples that go through the model at once.

    Attributes:
        rows: Their numbers.
        weight: What their mean loss counts in the step's, so that every sample of the step counts alike.
    """

    rows: Rows
    weight: float


def batch_starts(samples: int, batch_size: int) -> list[int]:
    """Where batches start; a last batch of one sample is dropped, since batch-norm has no statistics for it."""
    starts = list(range(0, samples, batch_size))
    return starts[:-1] if batch_size > 1 and len(starts) > 1 and samples - starts[-1] == 1 else starts


def steps_of(samples: int, batch_size: int, accumulate: int) -> list[list[slice]]:
    """For each optimiser step the batches whose gradients it adds up, as slices of an epoch's order."""
    slices = [slice(start, min(start + batch_size, samples)) for start in batch_starts(samples, batch_size)]
    return [slices[first : first + accumulate] for first in range(0, len(slices), accumulate)]


def steps_in(config: TrainConfig, samples: int) -> int:
    """Optimiser steps of a whole training."""
    return config.epochs * len(steps_of(samples, config.batch_size, config.accumulate))


def parts_of(step: list[slice], order: Rows, *, rank: int, world: int) -> list[Part]:
    """One process's share of a step.

    A process that gets no sample of a batch runs the batch's first two with weight 0, so that all of them meet; one
    that gets a single sample runs it twice, for batch-norm has no statistics of one.
    """
    total = sum(piece.stop - piece.start for piece in step)
    parts = []
    for piece in step:
        rows = order[piece]
        mine = np.array_split(rows, world)[rank]
        weight = len(mine) * world / total
        if len(mine) == 1 and world > 1:
            mine = mine.repeat(2)
        parts.append(Part(rows=mine if len(mine) else rows[:2], weight=weight))
    return parts


def tensors(arrays: Mapping[str, npt.NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """The arrays as tensors; copied only where torch cannot share them (read-only, or flipped)."""
    return {name: tensor(array, device) for name, array in arrays.items()}


def tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """One array as a tensor."""
    return torch.from_numpy(np.require(array, requirements=("C", "W"))).to(device, non_blocking=True)
