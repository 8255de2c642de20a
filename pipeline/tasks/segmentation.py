"""Segmentation: a class for every pixel. Cross-entropy; the mean intersection over union decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.tasks.base import Arrays, Task, split_labels
from pipeline.tasks.classification import check_class_range
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset

IGNORED: Final = -1
"""Label of pixels that count neither in the loss nor in a metric."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation(Task):
    """The first output holds logits ``(N, classes, H, W)``; labels are class numbers ``(N, H, W)``, -1 for no matter.

    ``miou`` is over all pixels of a split, then the mean over the classes that occur in labels or answers (Everingham
    et al., IJCV 111, 2015, section 4.2).
    """

    name: ClassVar[str] = "segmentation"
    known: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy")

    metric: str = "miou"
    beside: tuple[str, ...] = ("pixel_accuracy",)

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Every split has masks of whole class numbers; the validation split has more than one class."""
        import numpy as np

        found = split_labels(data, self.name, " with masks")
        for name, labels in found.items():
            if labels.ndim != 3 or labels.dtype.kind not in "iu":  # noqa: PLR2004 - (N, H, W)
                raise InputError(
                    f"labels of split {name!r} are {labels.dtype} of shape {labels.shape}",
                    "segmentation takes whole class numbers of shape (samples, height, width)",
                    "one-hot masks: masks.argmax(axis=1); floats: masks.astype(np.int64)",
                )
            if labels.min() < IGNORED:
                raise InputError(
                    f"split {name!r} has the label {labels.min()}",
                    "class numbers start at 0; -1 marks pixels that do not count",
                    "map labels to 0 .. classes-1, and what does not count to -1",
                )
        classes = np.unique(found["validation"])
        if (classes >= 0).sum() < 2:  # noqa: PLR2004 - one class is no segmentation
            raise InputError(
                "the validation masks have one class only",
                f"every {self.metric} on them would be meaningless",
                "check how masks become class numbers, and how the data are split",
            )
        return {"classes_seen": int((classes >= 0).sum())}

    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """The first output has logits for every pixel and class of the labels."""
        logits = outputs[0]
        height, width = data["validation"].labels.shape[1:]  # type: ignore[union-attr]
        if logits.ndim != 4 or logits.shape[2:] != (height, width):  # noqa: PLR2004 - (N, C, H, W)
            raise InputError(
                f"the model's first output has shape {logits.shape}",
                f"segmentation of masks {height}x{width} needs (batch, classes, {height}, {width})",
                "upsample the logits to the masks' size inside the model, or give masks of the output's size",
            )
        labels = {name: split.labels for name, split in data.splits.items() if split.labels is not None}
        check_class_range(labels, logits.shape[1], "classes")

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Cross-entropy over the pixels that count."""
        from torch.nn import functional

        return functional.cross_entropy(
            outputs[0], labels.long(), ignore_index=IGNORED, label_smoothing=label_smoothing
        )

    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """``mask``: the likeliest class of every pixel, ``(N, H, W)``."""
        return {"mask": outputs[0].argmax(axis=1)}

    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        del reference
        assert labels is not None
        confusion = _confusion(self.decode(outputs)["mask"], labels, outputs[0].shape[1])
        right = confusion.diagonal()
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
        occurs = union > 0
        figures = {
            "miou": float((right[occurs] / union[occurs]).mean()) if occurs.any() else 0.0,
            "pixel_accuracy": float(right.sum() / max(1, confusion.sum())),
        }
        return {name: figures[name] for name in names}


def _confusion(masks: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
    """Pixels by (label, answer), of those that count."""
    import numpy as np
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    found, wanted = (torch.from_numpy(np.ascontiguousarray(array).astype(np.int64)) for array in (masks, labels))
    return multiclass_confusion_matrix(found, wanted, num_classes=classes, ignore_index=IGNORED).numpy()
