"""ONNX Resize in torch, axis by axis: nearest and linear with all usual coordinate conventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.torchops_base import Call, Op, Refusal

_Floats = NDArray[np.float64]

_PLACES: Final[Mapping[str, Callable[[_Floats, int, int, float], _Floats]]] = {
    "half_pixel": lambda x, _n, _m, scale: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, _n, m, scale: (x + 0.5) / scale - 0.5 if m > 1 else np.zeros_like(x),
    "half_pixel_symmetric": lambda x, n, m, scale: (
        n / 2 * (1 - m / (scale * n)) + (x + 0.5) / scale - 0.5 if scale * n else x
    ),
    "asymmetric": lambda x, _n, _m, scale: x / scale,
    "align_corners": lambda x, n, m, _scale: x * (n - 1) / (m - 1) if m > 1 else np.zeros_like(x),
}
"""coordinate_transformation_mode -> (output index, input length, output length, scale) -> place in the input."""

_ROUND: Final[Mapping[str, Callable[[_Floats], _Floats]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _resize(call: Call) -> Tensor:
    value = call.tensor(0)
    axes = [int(axis) % value.ndim for axis in call.attributes.get("axes") or range(value.ndim)]
    sizes, scales = call.optional(3), call.optional(2)
    for index, axis in enumerate(axes):
        length = value.shape[axis]
        if sizes is not None and sizes.numel():
            wanted = int(sizes[index])
            scale = wanted / length
        else:
            assert scales is not None
            scale = float(scales[index])
            wanted = math.floor(length * scale)
        if scale != 1.0 or wanted != length:
            value = _along(call, value, axis, wanted, scale)
    return value


def _along(call: Call, value: Tensor, axis: int, wanted: int, scale: float) -> Tensor:
    length = value.shape[axis]
    convention = call.text("coordinate_transformation_mode", "half_pixel")
    places = _PLACES[convention](np.arange(wanted, dtype=np.float64), length, wanted, scale)
    if call.text("mode", "nearest") == "nearest":
        chosen = _ROUND[call.text("nearest_mode", "round_prefer_floor")](places)
        return value.index_select(axis, _index(chosen, length))
    low = np.floor(places)
    share = torch.from_numpy(places - low).to(value.dtype)
    share = share.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
    left, right = (value.index_select(axis, _index(place, length)) for place in (low, low + 1))
    return left + (right - left) * share


def _index(places: _Floats, length: int) -> Tensor:
    return torch.from_numpy(np.clip(places, 0, length - 1).astype(np.int64))


def _refuse(attributes: Mapping[str, Any], _outputs: int, opset: int) -> str | None:
    mode = str(attributes.get("mode", "nearest"))
    convention = str(attributes.get("coordinate_transformation_mode", "half_pixel"))
    hindrances = {
        f"mode {mode}": mode not in {"nearest", "linear"},
        f"coordinates {convention}": convention not in _PLACES,
        "antialias": bool(attributes.get("antialias", 0)),
        "an aspect ratio policy": str(attributes.get("keep_aspect_ratio_policy", "stretch")) != "stretch",
        "the form before opset 11": opset < 11,  # noqa: PLR2004 - an opset
    }
    return next((what for what, holds in hindrances.items() if holds), None)


OPS: Final[Mapping[str, Op]] = {"Resize": _resize}

REFUSALS: Final[Mapping[str, Refusal]] = {"Resize": _refuse}
