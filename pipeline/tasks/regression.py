"""Regression: numbers from anything. Mean squared error; the share of explained variance decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.tasks.base import Arrays, Task, split_labels
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Regression(Task):
    """The first output holds ``(N, targets)``; labels are numbers ``(N, targets)``, or ``(N,)`` for one target.

    ``r2`` is the mean over the targets, 1 at best and 0 for a model that always says the mean; ``rmse`` and ``mae``
    are in the labels' own units.
    """

    name: ClassVar[str] = "regression"
    smooths: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mae")
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"rmse", "mae"})

    metric: str = "r2"
    beside: tuple[str, ...] = ("rmse", "mae")

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Every split has numbers, one row a sample, and those to validate on differ."""
        found = split_labels(data, self.name, " of numbers")
        for name, labels in found.items():
            if labels.ndim not in {1, 2} or labels.dtype.kind not in "fiu":
                raise InputError(
                    f"labels of split {name!r} are {labels.dtype} of shape {labels.shape}",
                    "regression takes numbers of shape (samples,) or (samples, targets)",
                    "labels.astype(np.float32), flattened to one row per sample",
                )
        for name in ("validation", "test"):
            if name in found and (_rows(found[name]).std(axis=0) == 0).any():
                raise InputError(
                    f"a target of split {name!r} has one value only",
                    "there is no variance to explain, so r2 means nothing",
                    "mix the samples before splitting, or leave that target out",
                )
        rows = _rows(found["validation"])
        return {"targets": int(rows.shape[1]), "label_std": [round(float(std), 6) for std in rows.std(axis=0)]}

    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """The first output has a column for every target."""
        shape = outputs[0].shape
        wanted = _rows(data["validation"].labels).shape[1]  # type: ignore[arg-type]
        if len(shape) not in {1, 2} or (shape[1] if len(shape) == 2 else 1) != wanted:  # noqa: PLR2004
            raise InputError(
                f"the model's first output has shape {shape}",
                f"regression with {wanted} targets needs (batch, {wanted})",
                "give the last layer as many outputs as there are targets",
            )

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Mean squared error."""
        from torch.nn import functional

        del label_smoothing
        found = outputs[0].reshape(len(labels), -1)
        return functional.mse_loss(found, labels.reshape(len(labels), -1).to(found.dtype))

    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """``value``: ``(N, targets)``."""
        return {"value": _rows(outputs[0])}

    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        import numpy as np
        import torch
        from torchmetrics import functional as metrics

        del reference
        assert labels is not None
        found, wanted = (torch.from_numpy(_rows(array).astype(np.float64)) for array in (outputs[0], labels))
        if not torch.isfinite(found).all():  # the worst that can be, and no crash of the metric
            return {name: float("-inf") if name == "r2" else float("inf") for name in names}
        figures = {
            "r2": lambda: metrics.r2_score(found, wanted),
            "rmse": lambda: metrics.mean_squared_error(found, wanted, squared=False),
            "mae": lambda: metrics.mean_absolute_error(found, wanted),
        }
        return {name: float(figures[name]()) for name in names}


def _rows(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One row a sample."""
    return array.reshape(len(array), -1)
