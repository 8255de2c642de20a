"""What it costs to do without a block: the loss, and how far the outputs move, on real samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from pipeline.training import predict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy.typing as npt
    from torch.fx import GraphModule

    from pipeline.data import Split
    from pipeline.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cost:
    """Orders by loss, then by change.

    Attributes:
        loss: Mean loss of the task; infinite where it is not a number, zero for a task without labels.
        change: Root mean square difference of the outputs to those of the whole model, as a share of theirs.
    """

    loss: float
    change: float


@final
class Meter:
    """Measures models on the same samples against the same outputs.

    Args:
        gm: The whole model.
        split: The samples, bound to its inputs.
        task: Gives the loss.
        threads: torch threads.
    """

    def __init__(self, gm: GraphModule, split: Split, task: Task, threads: int) -> None:
        self._split, self._task, self._threads = split, task, threads
        self._outputs = predict(gm, split, threads=threads)
        self.whole = self._cost(self._outputs)

    def __call__(self, gm: GraphModule) -> Cost:
        """Cost of a model."""
        return self._cost(predict(gm, self._split, threads=self._threads))

    def _cost(self, outputs: Sequence[npt.NDArray[Any]]) -> Cost:
        return Cost(loss=_or_infinite(self._loss(outputs)), change=_or_infinite(_change(outputs, self._outputs)))

    def _loss(self, outputs: Sequence[npt.NDArray[Any]]) -> float:
        import torch

        if self._split.labels is None or not self._task.needs_labels:
            return 0.0
        labels = torch.from_numpy(self._split.labels)
        return float(self._task.loss([torch.from_numpy(output) for output in outputs], labels, label_smoothing=0.0))


def _change(found: Sequence[npt.NDArray[Any]], wanted: Sequence[npt.NDArray[Any]]) -> float:
    """The output that moves most decides."""
    return max(_relative(f.astype(np.float64), w.astype(np.float64)) for f, w in zip(found, wanted, strict=True))


def _relative(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float:
    with np.errstate(all="ignore"):  # a model without a block may overflow: that is its cost
        error = float(np.sqrt(np.mean(np.square(found - wanted))))
        scale = float(np.sqrt(np.mean(np.square(wanted))))
    return error / scale if scale else error


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
