"""Does the ONNX file compute what the torch graph computes, on real samples?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt


def check_parity(
    found: Mapping[str, npt.NDArray[Any]], expected: Sequence[npt.NDArray[Any]], *, tolerance: float
) -> dict[str, float]:
    """The largest difference of each output, relative to the output's largest value.

    Args:
        found: The ONNX model's outputs by name, ``(N, ...)``.
        expected: The torch graph's outputs in the same order.
        tolerance: Largest difference allowed.

    Raises:
        InputError: An output differs more, or in shape; names the worst one and its worst sample.
    """
    assert found, "nothing to compare"
    errors: dict[str, float] = {}
    worst_sample: dict[str, int] = {}
    for (name, array), wanted in zip(found.items(), expected, strict=True):
        if array.shape != wanted.shape:
            raise InputError(
                f"the exported model's output {name!r} has shape {array.shape}",
                f"torch gives {wanted.shape}",
                "keep the batch first in every output of forward(), and sizes independent of the batch",
            )
        errors[name], worst_sample[name] = _difference(array, wanted)
    worst = max(errors, key=errors.__getitem__)
    if errors[worst] > tolerance:
        raise InputError(
            f"the exported model differs from torch at output {worst!r}",
            f"by {errors[worst]:.2g} of the output's range at validation sample {worst_sample[worst]}; "
            f"allowed is {tolerance:.2g}",
            "try another export.opset; if the model is sensitive to rounding, raise export.tolerance",
        )
    return errors


def _difference(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> tuple[float, int]:
    """The largest difference relative to the largest value, infinite where only NaN tells; and its sample."""
    expected = wanted.astype(np.float64).reshape(len(wanted), -1)
    with np.errstate(invalid="ignore"):  # Inf - Inf
        by_sample = np.abs(found.astype(np.float64).reshape(len(wanted), -1) - expected).max(axis=1)
    by_sample[np.isnan(by_sample)] = np.inf
    scale = max(1e-12, float(np.abs(expected).max()))
    return (float(by_sample.max() / scale) if np.isfinite(scale) else np.inf), int(by_sample.argmax())
