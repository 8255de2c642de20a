"""What a graph gives, as a flat row of tensors, whatever form the user's ``forward`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def flat_outputs(answer: object) -> tuple[Tensor, ...]:
    """The tensors of what ``forward`` returned: one tensor, or a tuple, list or dict of tensors, in order.

    Raises:
        InputError: It is of another form.
    """
    if isinstance(answer, torch.Tensor):
        return (answer,)
    values = list(answer.values()) if isinstance(answer, Mapping) else answer
    if not isinstance(values, list | tuple) or not all(isinstance(value, torch.Tensor) for value in values):
        inside = ", ".join(type(value).__name__ for value in values) if isinstance(values, list | tuple) else ""
        raise InputError(
            f"the model returns {type(answer).__name__}{f' of {inside}' if inside else ''}",
            "an ONNX model gives tensors, in a flat row",
            "let forward() return a tensor, or a tuple, list or dict of tensors",
        )
    return tuple(values)
