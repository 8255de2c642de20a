"""Promises of the runtime wrapper."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from calibration.session import Session
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_telemetry_is_off(residual: Path) -> None:
    """Whoever opens a session has telemetry switched off first."""
    Session(residual.read_bytes(), threads=1, optimize=False)
    assert os.environ["ORT_DISABLE_TELEMETRY"]


def test_unloadable_models_are_input_errors(save: Callable[..., Path]) -> None:
    """Rubbish and an operator that the runtime does not have end in three lines, not in a foreign exception."""
    with pytest.raises(InputError, match="cannot load the model"):
        Session(b"rubbish", threads=1, optimize=False)
    model = save([helper.make_node("Erf", ["x"], ["y"])], {}, outputs={"y": ["batch", 3, 8, 8]}).read_bytes()
    with pytest.raises(InputError, match="cannot load the model") as caught:
        Session(model.replace(b"Erf", b"Erq"), threads=1, optimize=False)
    assert len(str(caught.value).splitlines()) == 3


def test_a_batch_the_model_cannot_take(save: Callable[..., Path]) -> None:
    """A batch size baked into a Reshape fails with the shapes that were fed."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = save(nodes, {"shape": np.array([4, 192], np.int64)}, outputs={"y": [4, 192]})
    session = Session(model.read_bytes(), threads=1, optimize=False)
    assert session.run(None, {"x": np.zeros((4, 3, 8, 8), np.float32)})[0].shape == (4, 192)
    with pytest.raises(InputError, match=r"\[5, 3, 8, 8\]"):
        session.run(None, {"x": np.zeros((5, 3, 8, 8), np.float32)})
