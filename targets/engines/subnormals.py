"""How many constants are subnormal numbers, which many CPUs compute slowly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from targets.onnxtensors import tensor_array

if TYPE_CHECKING:
    import onnx

_PIECE: Final = 1 << 18  # numbers looked at together: they stay in the cache


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
    bits, count = np.ascontiguousarray(tensor_array(path, tensor)).reshape(-1).view(np.uint32), 0
    for start in range(0, bits.size, _PIECE):
        piece = bits[start : start + _PIECE] << np.uint32(1)
        piece -= np.uint32(2)
        count += int(np.count_nonzero(piece < np.uint32(0x00FFFFFE)))
    return count
