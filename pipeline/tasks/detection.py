"""Detection by an anchor-free single-stage head: every cell of a grid says what it sees and how far its box reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.tasks.base import Arrays, Task, split_labels
from pipeline.tasks.names import number_in
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset

PADDING: Final = -1
"""Class of a row of labels, or of decoded boxes, that is no box."""
MOST_BOXES: Final = 100
_LEAST_SCORE: Final = 0.01
_MOST_CANDIDATES: Final = 300
_OVERLAP: Final = 0.6
_COLUMNS: Final = 5
_SLACK: Final = 1e-3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Detection(Task):
    """Outputs come in pairs, one a level of the grid, fine to coarse: logits and reaches.

    Logits are ``(N, classes, H, W)``; reaches are ``(N, 4, H, W)``: how far the box extends from the cell's centre to
    the left, top, right and bottom, in cells, not negative. A model that decodes itself gives scores
    ``(N, P, classes)`` from 0 to 1 and boxes ``(N, P, 4)`` instead; it can be scored, not trained.

    Labels are ``(N, boxes, 5)``: class, left, top, right, bottom, as shares of the image's width and height, 0 to 1;
    rows of class -1 are padding. ``map`` is the mean over IoU 0.50 to 0.95, ``map50`` and ``map75`` at one.
    """

    name: ClassVar[str] = "detection"
    known: ClassVar[tuple[str, ...]] = ("map", "map<k>")
    smooths: ClassVar[bool] = False

    metric: str = "map"
    beside: tuple[str, ...] = ("map50",)

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Every split has padded boxes within the image, of whole classes."""
        found = split_labels(data, self.name, " with boxes")
        for name, labels in found.items():
            _check_boxes(name, labels)
        validation = found["validation"]
        there = validation[..., 0] != PADDING
        if not there.any():
            raise InputError("the validation split has no box", "there is nothing to find", "give images with objects")
        classes, counts = _counted(validation[..., 0][there])
        return {"boxes": dict(zip(classes, counts, strict=True)), "classes_seen": len(classes)}

    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """Pairs of logits and reaches of the same grid, with a class for every label."""
        for array in outputs:
            if array.ndim not in {3, 4} or len(outputs) % 2:
                raise InputError(
                    f"the model gives {len(outputs)} outputs, one of shape {array.shape}",
                    "detection takes pairs: logits (batch, classes, H, W) and reaches (batch, 4, H, W)",
                    "return the pairs in a flat row, one pair a level",
                )
        for logits, reaches in _pairs(outputs):
            axis = 1 if logits.ndim == 4 else 2  # noqa: PLR2004 - a grid
            rest = tuple(n for at, n in enumerate(logits.shape) if at != axis)
            if reaches.shape[axis] != 4 or tuple(n for at, n in enumerate(reaches.shape) if at != axis) != rest:  # noqa: PLR2004
                raise InputError(
                    f"outputs of shape {logits.shape} and {reaches.shape} are no pair",
                    "the second has four reaches for every place of the first",
                    "give both heads the same grid",
                )
            labels = [split.labels[..., 0] for split in data.splits.values() if split.labels is not None]
            most = max(int(each.max()) for each in labels)
            least = min(int(each[each >= 0].min()) for each in labels if (each >= 0).any())
            if most >= logits.shape[axis]:
                one_based = least == 1 and most == logits.shape[axis]
                raise InputError(
                    f"the labels name class {most}",
                    f"the model has {logits.shape[axis]} classes, counted from 0"
                    + (": the labels look 1-based" if one_based else ""),
                    "subtract 1 from the classes where the data is made; else give the model more classes",
                )

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Quality focal loss of the classes and generalised IoU of the boxes, see `pipeline.tasks.detection_loss`."""
        from pipeline.tasks.detection_loss import detection_loss

        del label_smoothing
        return detection_loss(_pairs(outputs), labels)

    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """``boxes`` ``(N, 100, 4)``, ``score`` and ``label`` ``(N, 100)``, best first; label -1 is padding.

        Boxes are shares of the image; those that overlap a better one of their class by more than 0.6 are left out.
        """
        import numpy as np

        scores, corners = _candidates(outputs)
        boxes = np.zeros((len(scores), MOST_BOXES, 4))
        score = np.zeros((len(scores), MOST_BOXES))
        label = np.full((len(scores), MOST_BOXES), PADDING)
        for at, (each, where) in enumerate(zip(scores, corners, strict=True)):
            rows, classes = _best(each, where)
            boxes[at, : len(rows)] = where[rows]
            score[at, : len(rows)] = each[rows, classes]
            label[at, : len(rows)] = classes
        return {"boxes": boxes, "score": score, "label": label}

    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        from pipeline.tasks.average_precision import THRESHOLDS, Boxes, mean_average_precision

        del reference
        assert labels is not None
        said = self.decode(outputs)
        found = [
            Boxes(corners=boxes[label != PADDING], classes=label[label != PADDING], scores=score[label != PADDING])
            for boxes, score, label in zip(said["boxes"], said["score"], said["label"], strict=True)
        ]
        truth = [
            Boxes(corners=rows[rows[:, 0] != PADDING, 1:], classes=rows[rows[:, 0] != PADDING, 0]) for rows in labels
        ]
        thresholds = {name: THRESHOLDS if name == "map" else (number_in(name) / 100,) for name in names}
        return {name: mean_average_precision(found, truth, thresholds[name]) for name in names}


def _pairs(outputs: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(outputs[::2], outputs[1::2], strict=True))


def _candidates(outputs: Arrays) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Scores ``(N, P, classes)`` and boxes ``(N, P, 4)`` of all levels, in shares of the image."""
    import numpy as np

    scores, boxes = [], []
    for logits, reaches in _pairs(outputs):
        if logits.ndim == 3:  # noqa: PLR2004 - decoded by the model
            scores.append(logits.astype(np.float64))
            boxes.append(reaches.astype(np.float64))
            continue
        count, classes, height, width = logits.shape
        x, y = (np.arange(width) + 0.5)[None, None, :], (np.arange(height) + 0.5)[None, :, None]
        left, top, right, bottom = np.clip(np.nan_to_num(reaches.astype(np.float64)), 0, None).swapaxes(0, 1)
        corners = np.stack(
            [(x - left) / width, (y - top) / height, (x + right) / width, (y + bottom) / height], axis=-1
        )
        boxes.append(np.clip(corners, 0, 1).reshape(count, -1, 4))
        likely = np.clip(np.nan_to_num(logits.astype(np.float64), nan=-50.0), -50, 50)
        scores.append(1 / (1 + np.exp(-likely.reshape(count, classes, -1).swapaxes(1, 2))))
    return np.concatenate(scores, axis=1), np.concatenate(boxes, axis=1)


def _best(scores: npt.NDArray[Any], corners: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Places and classes of one image's boxes, best first, overlapping ones of a class left out."""
    import numpy as np

    from pipeline.tasks.average_precision import suppressed

    places, classes = np.nonzero(scores > _LEAST_SCORE)
    order = np.argsort(-scores[places, classes], kind="stable")[:_MOST_CANDIDATES]
    places, classes = places[order], classes[order]
    apart = corners[places] + 2.0 * classes[:, None]  # boxes of two classes never overlap
    kept = suppressed(apart, scores[places, classes], _OVERLAP)[:MOST_BOXES]
    return places[kept], classes[kept]


def _counted(values: npt.NDArray[Any]) -> tuple[list[str], list[int]]:
    import numpy as np

    classes, counts = np.unique(values.astype(np.int64), return_counts=True)
    return [str(label) for label in classes], [int(count) for count in counts]


def _check_boxes(name: str, labels: npt.NDArray[Any]) -> None:
    import numpy as np

    if labels.ndim != 3 or labels.shape[2] != _COLUMNS or labels.dtype.kind != "f":  # noqa: PLR2004 - (N, M, 5)
        raise InputError(
            f"labels of split {name!r} are {labels.dtype} of shape {labels.shape}",
            "detection takes floats of shape (samples, boxes, 5): class, left, top, right, bottom",
            "pad every sample's boxes to the same number with rows of class -1",
        )
    classes, corners = labels[..., 0], labels[..., 1:]
    there = classes != PADDING
    whole = (classes == np.round(classes)) & (classes >= PADDING)
    if not whole.all():
        raise InputError(
            f"split {name!r} has the class {classes[~whole][0]:g}",
            "classes are whole numbers from 0; -1 marks padding",
            "map them where the data is made",
        )
    if there.any() and corners[there].max() > 1 + _SLACK:
        raise InputError(
            f"a box of split {name!r} reaches to {corners[there].max():g}",
            "boxes are shares of the image, 0 to 1: these look like pixels",
            "divide left and right by the width, top and bottom by the height",
        )
    bad = there & ((corners[..., 2:] <= corners[..., :2]).any(axis=2) | (corners.min(axis=2) < -_SLACK))
    if bad.any():
        sample, row = (int(at[0]) for at in np.nonzero(bad))
        raise InputError(
            f"box {row} of sample {sample} of split {name!r} is {corners[sample, row].tolist()}",
            "right must lie beyond left and bottom beyond top, within the image",
            "drop boxes without area; check the order left, top, right, bottom",
        )
