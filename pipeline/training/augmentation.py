"""Random changes of training samples: which are wanted, and one seeded pass of them over a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.training import augment_images, augment_signals, augment_tokens
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.data import Split

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done at random to each sample, each time it is seen.

    Attributes:
        pad_crop: Pictures are padded by that many pixels and a window of the old size is cut out.
        flip: Share of the pictures that are mirrored left to right.
        cutout: Side of a square of zeros in each picture, in pixels.
        mixup: Alpha of the Beta distribution that says how much of two samples is mixed; 0 for none.
        shift: Most steps that a signal is moved along its last axis.
        noise: Standard deviation of the noise added, in units of the input.
        time_masks: Bands of zeros along the last axis of a spectrogram.
        time_width: Their largest width.
        frequency_masks: The same along the axis before it.
        frequency_width: Their largest width.
        token_dropout: Share of the tokens that are replaced.
        token_mask: What by.
        token_keep: Tokens that are never replaced (padding, start and end of a text).
        inputs: Names of the inputs that are changed; all that fit when empty.
    """

    pad_crop: int = 0
    flip: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    shift: int = 0
    noise: float = 0.0
    time_masks: int = 0
    time_width: int = 0
    frequency_masks: int = 0
    frequency_width: int = 0
    token_dropout: float = 0.0
    token_mask: int = 0
    token_keep: tuple[int, ...] = ()
    inputs: tuple[str, ...] = ()

    @property
    def random(self) -> bool:
        """Whether anything is done at all."""
        return any(getattr(self, f.name) for f in fields(self) if f.name in _STRENGTHS)


_STRENGTHS = frozenset({
    "pad_crop", "flip", "cutout", "mixup", "shift", "noise", "time_masks", "frequency_masks", "token_dropout",
})  # fmt: skip
_PICTURES = ("pad_crop", "flip", "cutout")
_PICTURE_DIMENSIONS = 4
_SPECTRUM_DIMENSIONS = 3


def check_augmentation(augment: Augmentation, train: Split) -> None:
    """Every change that is wanted has an input it fits, and labels that may stay as they are.

    Raises:
        InputError: One has not.
    """
    unknown = [name for name in augment.inputs if name not in train.inputs]
    if unknown:
        raise InputError(
            f"augment.inputs names {unknown[0]!r}",
            f"the model's inputs are {', '.join(train.inputs)}",
            "name one of them, or leave augment.inputs out",
        )
    chosen = _chosen(augment, train.inputs)
    floats = [array for array in chosen.values() if array.dtype.kind == "f"]
    _need(augment, _PICTURES, floats, _PICTURE_DIMENSIONS, "pictures (N, channels, height, width)")
    _need(augment, ("time_masks", "frequency_masks"), floats, _SPECTRUM_DIMENSIONS, "spectra (N, ..., bands, time)")
    _need(augment, ("shift", "noise", "mixup"), floats, 2, "numbers (N, ..., time)")
    if augment.token_dropout and not any(array.dtype.kind in "iu" for array in chosen.values()):
        raise _unfit("token_dropout", "whole numbers (N, ..., length)")
    moved = [key for key in ("pad_crop", "flip") if getattr(augment, key)]
    if moved and train.labels is not None and train.labels.ndim > 1 and not _labels_move(train):
        raise InputError(
            f"augment.{moved[0]} moves the picture, and the labels {train.labels.shape} do not move with it",
            "only labels of one number a sample, or of one a pixel (N, height, width), keep their meaning",
            f"remove augment.{moved[0]}",
        )


def augmented(augment: Augmentation, batch: Split, rng: np.random.Generator) -> tuple[dict[str, Array], Array | None]:
    """One batch, changed; its arrays are new, those of ``batch`` stay as they are.

    Args:
        augment: What to do.
        batch: Samples ``(N, ...)`` with labels.
        rng: Where all chance comes from.

    Returns:
        The inputs and the labels; labels of one number a pixel are moved with their picture.
    """
    inputs, labels = dict(batch.inputs), batch.labels
    moving = labels if labels is not None and _labels_move(batch) else None
    for name, array in _chosen(augment, batch.inputs).items():
        if array.dtype.kind in "iu":
            if augment.token_dropout:
                inputs[name] = augment_tokens.drop(
                    array, augment.token_dropout, augment.token_mask, augment.token_keep, rng
                )
            continue
        inputs[name], moved = _changed(augment, array, moving, rng)
        labels = labels if moved is None else moved
    return inputs, labels


def mixed(
    augment: Augmentation, inputs: Mapping[str, Tensor], rng: np.random.Generator
) -> tuple[dict[str, Tensor], Tensor | None, float]:
    """Every sample mixed with another one (mixup: Zhang et al., arXiv 1710.09412, equations 1 and 2).

    Labels are mixed in the loss, which is linear in them: ``share * loss(y) + (1 - share) * loss(y[other])``.

    Args:
        augment: Its ``mixup`` is alpha.
        inputs: ``(N, ...)``; what is not floating point stays.
        rng: Where all chance comes from.

    Returns:
        The inputs, the numbers of the other samples (None without mixup), and the share of the first.
    """
    if not augment.mixup:
        return dict(inputs), None, 1.0
    share = float(rng.beta(augment.mixup, augment.mixup))
    count = len(next(iter(inputs.values())))
    other = torch.from_numpy(rng.permutation(count))
    blended = {
        name: share * value + (1.0 - share) * value[other] if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    return blended, other, share


def _changed(
    augment: Augmentation, array: Array, moving: Array | None, rng: np.random.Generator
) -> tuple[Array, Array | None]:
    if array.ndim == _PICTURE_DIMENSIONS:
        if augment.pad_crop:
            array, moving = augment_images.pad_crop(array, augment.pad_crop, moving, rng)
        if augment.flip:
            array, moving = augment_images.flip(array, augment.flip, moving, rng)
        if augment.cutout:
            array = augment_images.cutout(array, augment.cutout, rng)
    if augment.shift:
        array = augment_signals.shift(array, augment.shift, rng)
    if augment.noise:
        array = augment_signals.add_noise(array, augment.noise, rng)
    if array.ndim >= _SPECTRUM_DIMENSIONS:
        array = augment_signals.mask_bands(array, -1, augment.time_masks, augment.time_width, rng)
        array = augment_signals.mask_bands(array, -2, augment.frequency_masks, augment.frequency_width, rng)
    return array, moving


def _chosen(augment: Augmentation, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in inputs.items() if not augment.inputs or name in augment.inputs}


def _labels_move(batch: Split) -> bool:
    """Whether labels are a map over the only picture."""
    pictures = [array for array in batch.inputs.values() if array.ndim == _PICTURE_DIMENSIONS]
    labels = batch.labels
    return labels is not None and len(pictures) == 1 and labels.shape[1:] == pictures[0].shape[2:]


def _need(augment: Augmentation, keys: tuple[str, ...], floats: list[Array], dimensions: int, form: str) -> None:
    exact = dimensions == _PICTURE_DIMENSIONS
    fits = any(array.ndim == dimensions if exact else array.ndim >= dimensions for array in floats)
    for key in keys:
        if getattr(augment, key) and not fits:
            raise _unfit(key, f"floating-point {form}")


def _unfit(key: str, form: str) -> InputError:
    return InputError(
        f"augment.{key} fits no input of the model",
        f"it changes {form}",
        f"remove augment.{key}, or name the right augment.inputs",
    )
