"""How many constants are subnormal numbers, which many CPUs compute slowly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from targets.onnxtensors import pieces

if TYPE_CHECKING:
    import onnx


def subnormals(tensor: onnx.TensorProto, path: Path = Path()) -> int:
    """Subnormal float32 numbers in ``tensor``; 0 for other types.

    By bits: comparing numbers would not see them where a runtime has set this thread to flush them. Shifted left by
    its sign, a subnormal number is even and 2 to 2**24 - 2; two less, and zero wraps around to the largest.

    Args:
        tensor: A constant.
        path: The ONNX file that it came from, where its data may lie outside that file.
    """
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT:
        return 0
    count = 0
    for values in pieces(path, tensor):
        piece = values.view(np.uint32) << np.uint32(1)
        piece -= np.uint32(2)
        count += int(np.count_nonzero(piece < np.uint32(0x00FFFFFE)))
    return count
