"""Single-label classification of anything: images, sounds, texts. Cross-entropy; top-1 accuracy decides."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.tasks.base import Arrays, Task, split_labels
from pipeline.tasks.names import fits, number_in
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(Task):
    """The first output holds logits ``(N, classes)``; labels are class numbers from 0.

    Precision, recall and F1 are means over the classes that occur, AUC is one class against the rest, averaged alike.
    """

    name: ClassVar[str] = "classification"
    known: ClassVar[tuple[str, ...]] = ("accuracy", "top<k>", "precision", "recall", "f1", "auc")

    metric: str = "accuracy"

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Every split has whole, non-negative class numbers, and more than one class."""
        for name, labels in split_labels(data, self.name, "").items():
            if labels.ndim != 1 or labels.dtype.kind not in "iu":
                raise InputError(
                    f"labels of split {name!r} are {labels.dtype} of shape {labels.shape}",
                    "class numbers are whole numbers, one per sample",
                    "one-hot rows: labels.argmax(1); floats: labels.astype(np.int64)",
                )
            if labels.min() < 0:
                raise InputError(
                    f"split {name!r} has the label {labels.min()}",
                    "class numbers start at 0",
                    "map labels to 0 .. classes-1",
                )
        classes = len(set(data["validation"].labels.tolist()))  # type: ignore[union-attr]
        if classes < 2:  # noqa: PLR2004 - one class is no classification
            raise InputError(
                "the validation split has one class only",
                f"every {self.metric} on it would be meaningless",
                "mix the classes before splitting",
            )
        return {"classes_seen": classes}

    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """The first output has a column for every label, and enough of them for top-k."""
        logits = outputs[0]
        if logits.ndim != 2:  # noqa: PLR2004 - (N, classes)
            raise InputError(
                f"the model's first output has shape {logits.shape}",
                "classification needs (batch, classes)",
                "return the logits first",
            )
        classes = logits.shape[1]
        check_class_range({n: s.labels for n, s in data.splits.items() if s.labels is not None}, classes, "outputs")
        for name in (self.metric, *self.beside):
            if fits(name, "top<k>") and name not in self.functions and number_in(name) >= classes:
                raise InputError(
                    f"metric {name} is 1 for every model",
                    f"the model has {classes} outputs",
                    f"use top1 (accuracy) to top{classes - 1}",
                )

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Cross-entropy."""
        from torch.nn import functional

        return functional.cross_entropy(outputs[0], labels.long(), label_smoothing=label_smoothing)

    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """``label``: the likeliest class, ``(N,)``; ``probability``: softmax of the logits, ``(N, classes)``."""
        import numpy as np

        logits = outputs[0].astype(np.float64)
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        return {"label": logits.argmax(axis=1), "probability": grown / grown.sum(axis=1, keepdims=True)}

    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        import numpy as np
        import torch

        del reference
        assert labels is not None
        logits, wanted = torch.from_numpy(outputs[0]).float(), torch.from_numpy(labels.astype(np.int64))
        return {name: _figure(name, logits, wanted) for name in names}


def check_class_range(labels: Mapping[str, npt.NDArray[Any]], classes: int, columns: str) -> None:
    """Refuses class numbers beyond the model's, and says whether they look 1-based.

    Args:
        labels: Class numbers by split; negative ones do not count.
        classes: How many classes the model tells apart.
        columns: What the model has one of for each class.
    """
    lowest = min((int(array[array >= 0].min()) for array in labels.values() if (array >= 0).any()), default=0)
    for name, array in labels.items():
        if array.size and int(array.max()) >= classes:
            one_based = lowest == 1 and max(int(each.max()) for each in labels.values() if each.size) == classes
            raise InputError(
                f"split {name!r} has the label {array.max()}",
                f"the model has {classes} {columns}, so labels are 0 to {classes - 1}"
                + (f"; they run from 1 to {classes}: they look 1-based" if one_based else ""),
                "labels that start at 1 need `labels - 1` where the data is made; else give the model more outputs",
            )


def _figure(name: str, logits: Tensor, labels: Tensor) -> float:
    """One metric; what is a share of samples comes exactly, from counts."""
    from torchmetrics.functional import classification as metrics

    classes = logits.shape[1]
    if name == "accuracy" or fits(name, "top<k>"):
        k = 1 if name == "accuracy" else number_in(name)
        counts = metrics.multiclass_stat_scores(logits, labels, num_classes=classes, average="micro", top_k=k)
        return int(counts[0]) / len(labels)  # counts: true positives, false positives, ...
    if name == "auc":
        return _auc(logits, labels)
    figure = {
        "precision": metrics.multiclass_precision,
        "recall": metrics.multiclass_recall,
        "f1": metrics.multiclass_f1_score,
    }[name]
    return float(figure(logits, labels, num_classes=classes, average="macro"))


def _auc(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur; a class that all samples have, or none, has no such curve."""
    from torchmetrics.functional.classification import multiclass_auroc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without samples, left out below
        each = multiclass_auroc(logits.double().softmax(1), labels, num_classes=logits.shape[1], average="none")
    occurring = labels.bincount(minlength=logits.shape[1])
    return float(each[(occurring > 0) & (occurring < len(labels))].mean())
