"""Engines by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from targets.engines.base import Engine

_ENGINES: Final = {
    "onnxruntime": ("targets.engines.onnxruntime", "OnnxRuntimeEngine"),
    "openvino": ("targets.engines.openvino", "OpenVinoEngine"),
    "tensorrt": ("targets.engines.tensorrt", "TensorRtEngine"),
    "tensorrt-rtx": ("targets.engines.tensorrt", "TensorRtRtxEngine"),
}


def engine(name: str) -> Engine:
    """The engine called ``name``.

    Raises:
        InputError: There is none.
    """
    if name not in _ENGINES:
        raise InputError(
            f"there is no engine called {name!r}", nearest(name, _ENGINES), "name one in the profile's [engine]"
        )
    module, attribute = _ENGINES[name]
    created: Engine = getattr(importlib.import_module(module), attribute)()
    return created
