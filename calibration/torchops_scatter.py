"""Operators of ONNX that pick the largest values, or write values to places, in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from calibration.torchops_base import Call, Op, Refusal

_REDUCTIONS: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _top(call: Call) -> tuple[Tensor, ...]:
    """Of equal values the first ones, as ONNX says."""
    value, count, axis = call.tensor(0), int(call.tensor(1).reshape(())), call.integer("axis", -1)
    largest = bool(call.integer("largest", 1))
    values, places = torch.sort(value, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _places(index: Tensor, size: int) -> Tensor:
    index = index.long()
    return torch.where(index < 0, index + size, index)


def _scatter_elements(call: Call) -> Tensor:
    value, updates, axis = call.tensor(0), call.tensor(2), call.integer("axis", 0)
    index, how = _places(call.tensor(1), value.shape[axis]), call.text("reduction", "none")
    if how == "none":
        return value.scatter(axis, index, updates)
    return value.scatter_reduce(axis, index, updates, _REDUCTIONS[how], include_self=True)


def _scatter_nd(call: Call) -> Tensor:
    value, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    places = tuple(_places(index[..., i], value.shape[i]) for i in range(index.shape[-1]))
    return value.index_put(places, updates, accumulate=call.text("reduction", "none") == "add")


def _refuse_reduction(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
    how = str(attributes.get("reduction", "none"))
    return None if how in {"none", "add"} else f"reduction {how}"


OPS: Final[Mapping[str, Op]] = {"ScatterElements": _scatter_elements, "ScatterND": _scatter_nd, "TopK": _top}

REFUSALS: Final[Mapping[str, Refusal]] = {"ScatterND": _refuse_reduction}
