"""What an operator's torch implementation is given, and how it reads sizes from tensors and attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

Results = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One node at run time.

    Attributes:
        inputs: Tensors in order, None for what is left out.
        attributes: ONNX attributes as Python values (text decoded, tensors as torch tensors).
        outputs: How many outputs the node has.
        opset: Version of the default operator set.
    """

    inputs: Sequence[Tensor | None]
    attributes: Mapping[str, Any]
    outputs: int
    opset: int

    def tensor(self, index: int) -> Tensor:
        """An input that must be there."""
        value = self.inputs[index]
        assert value is not None
        return value

    def optional(self, index: int) -> Tensor | None:
        """An input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        return str(self.attributes.get(name, default))

    def sizes(self, index: int, name: str) -> list[int] | None:
        """Integers that newer opsets give as input ``index`` and older ones as attribute ``name``."""
        value = self.optional(index)
        if value is not None:
            return [int(size) for size in value.reshape(-1).tolist()]
        listed = self.attributes.get(name)
        return None if listed is None else [int(size) for size in listed]


Op = Callable[[Call], Results]
Refusal = Callable[[Mapping[str, Any], int, int], str | None]
"""(attributes, number of outputs, opset) -> what of the operator has no implementation here, None when all is well."""

TYPES: Final[Mapping[int, torch.dtype]] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
"""ONNX element type -> torch's; others are not used here."""


def wrap(function: Callable[[Tensor], Tensor]) -> Op:
    """An operator of one tensor without attributes."""
    return lambda call: function(call.tensor(0))


def wrap_two(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    """An operator of two tensors that broadcast."""
    return lambda call: function(call.tensor(0), call.tensor(1))
