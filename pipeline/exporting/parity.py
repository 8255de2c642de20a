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
                f"the exported model's output {name!r} has shape {array.shape}", f"torch gives {wanted.shape}", "report the model: the exporter changed its meaning"
            )
        difference = np.abs(array.astype(np.float64) - wanted.astype(np.float64)).reshape(len(array), -1).max(axis=1)
        errors[name] = float(difference.max() / max(1e-12, float(np.abs(wanted).max())))
        worst_sample[name] = int(difference.argmax())
    worst = max(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
    if not errors[worst] <= tolerance:
        raise InputError(
            f"the exported model differs from torch at output {worst!r}",
            f"by {errors[worst]:.2g} of the output's range at validation sample {worst_sample[worst]}; allowed is {tolerance:.2g}",
            "try another export.opset; if the model is sensitive to rounding, raise export.tolerance",
        )
    return errors
