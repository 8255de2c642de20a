"""Subnormal constants are counted by their bits."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from targets.engines.subnormals import subnormals


def test_the_borders() -> None:
    """The smallest and the largest subnormal of both signs count; zeros, the smallest normal and other types do not."""
    bits = np.array(
        [0, 1, 0x007FFFFF, 0x00800000, 0x80000000, 0x80000001, 0x807FFFFF, 0x80800000, 0x3F800000], np.uint32
    )
    assert subnormals(numpy_helper.from_array(bits.view(np.float32), "w")) == 4
    assert subnormals(numpy_helper.from_array(bits, "w")) == 0
    many = np.tile(bits, 40_000).view(np.float32).reshape(9, -1)
    assert subnormals(numpy_helper.from_array(many, "w")) == 160_000
