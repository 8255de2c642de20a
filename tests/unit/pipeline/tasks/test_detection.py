"""Detection: labels are padded boxes, outputs pairs of maps; decoding inverts what the loss asks for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.data import Dataset, Split
from pipeline.tasks import Detection
from pipeline.tasks.detection_loss import _targets, detection_loss
from targets.errors import InputError

TASK = Detection()


def labels(*boxes: tuple[float, ...], rows: int = 4) -> np.ndarray:
    padded = np.full((1, rows, 5), -1, dtype=np.float32)
    padded[0, : len(boxes)] = np.array(boxes, dtype=np.float32).reshape(-1, 5)
    return padded


def data(array: np.ndarray) -> Dataset:
    return Dataset(splits={"validation": Split(inputs={"": np.zeros((len(array), 1), np.float32)}, labels=array)})


def said(array: np.ndarray, grids: tuple[tuple[int, int], ...], classes: int) -> list[np.ndarray]:
    """What a model would say that has learned its targets by heart."""
    outputs = []
    for level, (height, width) in enumerate(grids):
        reaches = torch.zeros(len(array), 4, height, width)
        lowest, highest = (0.0 if level == 0 else 4.0), (float("inf") if level == len(grids) - 1 else 8.0)
        target, label, positive = _targets(reaches, torch.from_numpy(array), lowest, highest)
        logits = torch.where(torch.nn.functional.one_hot(label, classes) * positive[..., None] > 0, 9.0, -9.0)
        outputs += [
            logits.transpose(1, 2).reshape(len(array), classes, height, width).numpy().astype(np.float32),
            target.transpose(1, 2).reshape(len(array), 4, height, width).numpy(),
        ]
    return outputs


BOXES = labels((0, 0.1, 0.2, 0.4, 0.6), (2, 0.5, 0.1, 0.95, 0.9), (1, 0.05, 0.7, 0.15, 0.8))


@pytest.mark.parametrize("grids", [((16, 20),), ((32, 40), (16, 20))])
def test_decoding_inverts_the_targets(grids: tuple[tuple[int, int], ...]) -> None:
    """Promise: what the loss asks for decodes to the labels, on one level and on two."""
    outputs = said(BOXES, grids, 3)
    found = TASK.decode(outputs)
    assert sorted(found["label"][0][found["label"][0] >= 0].tolist()) == [0, 1, 2]
    for row in BOXES[0, :3]:
        at = found["label"][0].tolist().index(row[0])
        assert np.allclose(found["boxes"][0, at], row[1:], atol=1e-5)
    assert TASK.score(outputs, BOXES, outputs) == 1.0


def test_the_loss_is_least_at_the_targets() -> None:
    """Promise: right answers cost nearly nothing, and every step away from them costs more."""
    right = [torch.from_numpy(array) for array in said(BOXES, ((16, 20),), 3)]
    truth = torch.from_numpy(BOXES)
    losses = [
        float(detection_loss([(right[0] * (1 - step), right[1] * (1 + step))], truth)) for step in (0, 0.2, 0.5, 0.9)
    ]
    assert losses[0] < 1e-3
    assert all(before < after for before, after in pairwise(losses))


def test_a_detector_learns_one_scene() -> None:
    """Promise: by this loss alone a free map of logits and reaches comes to the labels."""
    torch.manual_seed(0)
    logits = torch.full((1, 3, 8, 10), -3.0, requires_grad=True)
    reaches = torch.full((1, 4, 8, 10), 1.0, requires_grad=True)
    truth = torch.from_numpy(BOXES)
    optimizer = torch.optim.Adam([logits, reaches], lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        TASK.loss([logits, reaches.relu()], truth, label_smoothing=0.0).backward()
        optimizer.step()
    outputs = [logits.detach().numpy(), reaches.detach().relu().numpy()]
    assert TASK.score(outputs, BOXES, outputs) > 0.9


def test_images_without_boxes_have_a_loss() -> None:
    """Promise: nothing to find is a finite lesson, with a gradient."""
    logits, reaches = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.ones(1, 4, 4, 4)
    loss = TASK.loss([logits, reaches], torch.from_numpy(labels()), label_smoothing=0.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_a_model_may_decode_itself() -> None:
    """Promise: scores and boxes by place are taken as they are."""
    scores = np.array([[[0.9, 0.0], [0.8, 0.1], [0.0, 0.7]]], dtype=np.float32)
    boxes = np.array([[[0.1, 0.1, 0.5, 0.5], [0.11, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]]], dtype=np.float32)
    truth = labels((0, 0.1, 0.1, 0.5, 0.5), (1, 0.6, 0.6, 0.9, 0.9))
    TASK.check_outputs([scores, boxes], data(truth))
    assert TASK.scores([scores, boxes], truth, []) == {"accuracy": 1.0, "metric": "map", "beside": {"map50": 1.0}}


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (labels((0, 10, 20, 30, 40)), ["look like pixels", "width"]),
        (labels((0, 0.5, 0.1, 0.2, 0.3)), ["box 0 of sample 0", "without area"]),
        (labels((0.5, 0.1, 0.1, 0.2, 0.3)), ["class 0.5"]),
        (labels((-2, 0.1, 0.1, 0.2, 0.3)), ["class -2"]),
        (labels(), ["no box"]),
        (np.zeros((1, 4, 4), np.float32), ["(samples, boxes, 5)"]),
        (np.zeros((1, 4, 5), np.int64), ["int64"]),
    ],
)
def test_labels_that_are_no_boxes_are_refused(array: np.ndarray, words: list[str]) -> None:
    """Promise: pixels, boxes without area, odd classes: each is named with what to do."""
    with pytest.raises(InputError) as caught:
        TASK.check_labels(data(array))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_outputs_that_are_no_pairs_are_refused() -> None:
    """Promise: a lone output, other grids, three reaches, and classes that look 1-based are named."""
    logits, reaches = np.zeros((1, 2, 4, 4), np.float32), np.zeros((1, 4, 4, 4), np.float32)
    truth = data(labels((1, 0.1, 0.1, 0.4, 0.4)))
    TASK.check_outputs([logits, reaches], truth)
    for outputs in ([logits], [logits, reaches[:, :3]], [logits, reaches[..., :2]], [logits, reaches[0, 0]]):
        with pytest.raises(InputError):
            TASK.check_outputs(outputs, truth)
    with pytest.raises(InputError, match="look 1-based"):
        TASK.check_outputs([logits, reaches], data(labels((1, 0.1, 0.1, 0.4, 0.4), (2, 0.1, 0.1, 0.4, 0.4))))


def test_outputs_that_are_no_numbers_score_nothing() -> None:
    """Promise: NaN finds no box, and is no crash."""
    outputs = [np.full((1, 3, 4, 4), np.nan, np.float32), np.full((1, 4, 4, 4), np.nan, np.float32)]
    assert TASK.score(outputs, BOXES, outputs) == 0.0
