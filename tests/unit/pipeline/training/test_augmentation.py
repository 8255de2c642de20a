"""Augmentation: seeded, within its bounds, and refused where it would spoil inputs or labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import Split
from pipeline.training import Augmentation
from pipeline.training.augmentation import augmented, check_augmentation, mixed
from targets.errors import InputError

PICTURES = np.random.default_rng(1).standard_normal((9, 3, 8, 10)).astype(np.float32)
CLASSES = np.arange(9)


def _once(augment: Augmentation, split: Split, seed: int = 0) -> tuple[dict[str, Any], Any]:
    return augmented(augment, split, np.random.default_rng(seed))


@given(
    augment=st.builds(
        Augmentation,
        pad_crop=st.integers(0, 3),
        flip=st.floats(0, 1),
        cutout=st.integers(0, 12),
        shift=st.integers(0, 12),
        noise=st.floats(0, 1),
        time_masks=st.integers(0, 2),
        time_width=st.integers(1, 12),
        frequency_masks=st.integers(0, 2),
        frequency_width=st.integers(1, 12),
    ),
    seed=st.integers(0, 5),
)
def test_equal_seeds_give_equal_samples(augment: Augmentation, seed: int) -> None:
    """Promise: form, type and source stay; the same seed repeats it to the bit."""
    before = PICTURES.copy()
    split = Split(inputs={"x": PICTURES}, labels=CLASSES)
    first, labels = _once(augment, split, seed)
    again, _ = _once(augment, split, seed)
    assert np.array_equal(first["x"], again["x"])
    assert (first["x"].shape, first["x"].dtype) == (PICTURES.shape, PICTURES.dtype)
    assert np.array_equal(PICTURES, before)
    assert labels is CLASSES


def test_crops_are_windows_of_the_padded_picture() -> None:
    """Promise: every result is found in the padded picture, and not all in the same place."""
    cut, _ = _once(Augmentation(pad_crop=2), Split(inputs={"x": PICTURES}, labels=CLASSES))
    padded = np.pad(PICTURES, ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = []
    for index, picture in enumerate(cut["x"]):
        windows = {(r, c): padded[index, :, r : r + 8, c : c + 10] for r in range(5) for c in range(5)}
        places += [place for place, window in windows.items() if np.array_equal(window, picture)]
    assert len(places) == 9
    assert len(set(places)) > 3


def test_flips_and_squares() -> None:
    """Promise: a share of 1 mirrors all; a square of zeros has at most its side, the rest is as before."""
    split = Split(inputs={"x": PICTURES}, labels=CLASSES)
    assert np.array_equal(_once(Augmentation(flip=1.0), split)[0]["x"], PICTURES[..., ::-1])
    cut = _once(Augmentation(cutout=4), split)[0]["x"]
    gone = cut != PICTURES
    assert all(4 <= sample.any(0).sum() <= 16 for sample in gone)
    assert not cut[gone].any()


def test_label_maps_move_with_their_picture() -> None:
    """Promise: of a picture that is its own label map, both stay equal, whatever is done."""
    maps = np.random.default_rng(0).integers(0, 5, (6, 8, 10))
    split = Split(inputs={"x": maps[:, None].astype(np.float32)}, labels=maps)
    check_augmentation(Augmentation(pad_crop=3, flip=0.5), split)
    inputs, labels = _once(Augmentation(pad_crop=3, flip=0.5), split)
    assert np.array_equal(inputs["x"][:, 0].astype(int), labels)
    assert not np.array_equal(labels, maps)


def test_signals_move_and_bands_vanish() -> None:
    """Promise: shifts fill with zeros and lose nothing else; masks are whole bands of at most their width."""
    signals = np.arange(1, 21, dtype=np.float32)[None].repeat(50, 0)
    moved = _once(Augmentation(shift=3), Split(inputs={"x": signals}, labels=None))[0]["x"]
    steps = {int(20 - len(row[row > 0])) for row in moved}
    assert steps == {0, 1, 2, 3}
    assert all((np.diff(row[row > 0]) == 1).all() for row in moved)
    ones = np.ones((40, 12, 20), np.float32)
    masked = _once(
        Augmentation(time_masks=1, time_width=5, frequency_masks=1, frequency_width=3),
        Split(inputs={"x": ones}, labels=None),
    )[0]["x"]
    times, bands = (masked == 0).all(1).sum(1), (masked == 0).all(2).sum(1)
    assert (times.max(), bands.max()) == (5, 3)
    assert all(sample.sum() == (12 - b) * (20 - t) for sample, t, b in zip(masked, times, bands, strict=True))
    noisy = _once(Augmentation(noise=0.5), Split(inputs={"x": ones}, labels=None))[0]["x"] - ones
    assert noisy.std() == pytest.approx(0.5, rel=0.05)


def test_tokens_are_dropped_but_for_those_that_stay() -> None:
    """Promise: about the share asked for, never padding, only in whole-number inputs."""
    tokens = np.random.default_rng(0).integers(0, 50, (200, 30))
    split = Split(inputs={"ids": tokens, "mask": np.ones((200, 30), np.float32)}, labels=None)
    augment = Augmentation(token_dropout=0.2, token_mask=99, token_keep=(0, 1))
    inputs, _ = _once(augment, split)
    changed = inputs["ids"] != tokens
    assert (inputs["ids"][changed] == 99).all()
    assert not np.isin(tokens[changed], [0, 1]).any()
    assert changed.sum() / (~np.isin(tokens, [0, 1])).sum() == pytest.approx(0.2, abs=0.02)
    assert inputs["mask"] is split.inputs["mask"]


def test_mixup_mixes_within_the_batch() -> None:
    """Promise: every sample is a blend of itself and another of the batch, at one share."""
    x = torch.from_numpy(PICTURES)
    blended, other, share = mixed(Augmentation(mixup=0.4), {"x": x}, np.random.default_rng(0))
    assert other is not None
    assert sorted(other.tolist()) == [*range(9)]
    torch.testing.assert_close(blended["x"], share * x + (1 - share) * x[other])
    assert mixed(Augmentation(), {"x": x}, np.random.default_rng(0))[1:] == (None, 1.0)


BOXES = np.zeros((9, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("augment", "inputs", "labels", "what"),
    [
        (Augmentation(flip=0.5), {"x": PICTURES}, BOXES, "do not move with it"),
        (Augmentation(pad_crop=2), {"x": np.ones((9, 5), np.float32)}, CLASSES, "augment.pad_crop fits no input"),
        (Augmentation(token_dropout=0.1), {"x": PICTURES}, CLASSES, "augment.token_dropout fits no input"),
        (Augmentation(time_masks=1, time_width=2), {"x": np.ones((9, 5), np.float32)}, CLASSES, "time_masks fits no"),
        (Augmentation(noise=0.1), {"x": np.ones((9, 5), np.int64)}, CLASSES, "augment.noise fits no input"),
        (Augmentation(noise=0.1, inputs=("y",)), {"x": PICTURES}, CLASSES, "augment.inputs names 'y'"),
    ],
)
def test_what_does_not_fit_is_refused(
    augment: Augmentation, inputs: dict[str, Any], labels: np.ndarray[Any, Any], what: str
) -> None:
    """Promise: nothing asked for is silently left out, and no label is made wrong."""
    with pytest.raises(InputError, match=what):
        check_augmentation(augment, Split(inputs=inputs, labels=labels))
