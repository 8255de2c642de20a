"""Single-label classification: cross-entropy, top-1 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from pipeline.tasks.base import Task
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset


@final
class Classification(Task):
    """The first output holds logits ``(N, classes)``; labels are class numbers from 0."""

    name = "classification"
    metric = "accuracy"
    needs_labels = True

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Every split has whole, non-negative class numbers, and more than one class."""
        for name, split in data.splits.items():
            if split.labels is None:
                if name == "calibration":
                    continue
                raise InputError(
                    f"split {name!r} has no labels",
                    "task `classification` compares with labels",
                    'return (inputs, labels) per split, or use task = "fidelity"',
                )
            if split.labels.ndim != 1 or split.labels.dtype.kind not in "iu":
                raise InputError(
                    f"labels of split {name!r} are {split.labels.dtype} of shape {split.labels.shape}",
                    "class numbers are whole numbers, one per sample",
                    "one-hot rows: labels.argmax(1); floats: labels.astype(np.int64)",
                )
            if split.labels.min() < 0:
                raise InputError(
                    f"split {name!r} has the label {split.labels.min()}",
                    "class numbers start at 0",
                    "map labels to 0 .. classes-1",
                )
        classes = len(set(data["validation"].labels.tolist()))  # type: ignore[union-attr]
        if classes < 2:  # noqa: PLR2004 - one class is no classification
            raise InputError(
                "the validation split has one class only",
                "every accuracy on it would be meaningless",
                "mix the classes before splitting",
            )
        return {"classes_seen": classes}

    def check_outputs(self, outputs: Sequence[npt.NDArray[Any]], data: Dataset) -> None:
        """The first output has a column for every label."""
        logits = outputs[0]
        if logits.ndim != 2:  # noqa: PLR2004 - (N, classes)
            raise InputError(
                f"the model's first output has shape {logits.shape}",
                "classification needs (batch, classes)",
                "return the logits first",
            )
        classes = logits.shape[1]
        for name, split in data.splits.items():
            if split.labels is not None and int(split.labels.max()) >= classes:
                raise InputError(
                    f"split {name!r} has the label {split.labels.max()}",
                    f"the model has {classes} outputs, so labels are 0 to {classes - 1}",
                    "labels that start at 1 need `labels - 1` in the data factory; else give the model more outputs",
                )

    def score(
        self,
        outputs: Sequence[npt.NDArray[Any]],
        labels: npt.NDArray[Any] | None,
        reference: Sequence[npt.NDArray[Any]],
    ) -> float:
        """Top-1 accuracy: the exact share, from counts."""
        import numpy as np
        import torch
        from torchmetrics.functional.classification import multiclass_stat_scores

        del reference
        assert labels is not None
        logits = torch.from_numpy(outputs[0])
        counts = multiclass_stat_scores(
            logits, torch.from_numpy(labels.astype(np.int64)), num_classes=logits.shape[1], average="micro"
        )
        return int(counts[0]) / len(labels)  # counts: true positives, false positives, ...

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Cross-entropy."""
        from torch.nn import functional

        return functional.cross_entropy(outputs[0], labels.long(), label_smoothing=label_smoothing)
