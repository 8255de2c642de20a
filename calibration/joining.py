"""Outputs of several batches put together, whichever axis the samples lie along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.generic]


def joined(parts: Sequence[Array], name: str) -> Array:
    """One output over all batches: along the first axis, or along the only one in which the batches differ.

    Args:
        parts: What each batch gave, ``(batch, ...)`` or with the batch along another axis (a state of an LSTM).
        name: What the output is called.

    Raises:
        InputError: Its sizes differ in more than one axis.
    """
    arrays = [np.atleast_1d(part) for part in parts]
    shapes = sorted({array.shape for array in arrays})
    differ = {axis for shape in shapes for axis in range(len(shape)) if shape[axis] != shapes[0][axis]}
    if len(differ) > 1:
        raise no_fixed_size(name, shapes[0], shapes[-1])
    return np.concatenate(arrays, axis=differ.pop() if differ else 0)


def no_fixed_size(name: str, first: tuple[int, ...], second: tuple[int, ...]) -> InputError:
    """The error of an output of which two models, or two samples, give another number of values."""
    return InputError(
        f"output {name!r} has the shape {[*first]} once and {[*second]} once",
        "how large it is depends on values (NonMaxSuppression, NonZero), so no two models can be compared by it",
        "export the model with what that operator reads as outputs (boxes, scores), and select outside the model",
    )
