"""What an integer operator reads and gives back, around its sums: activations, scales, zero points, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from calibration.integerops import OPERATORS, Array, Integers, Operands, dynamic_affine

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx


def activation(where: Operands, values: list[Array | None]) -> tuple[Array, np.float32, int]:
    """Integers of the operator's left side, their scale and their zero point; floats are quantised as it does."""
    data = values[where.data]
    assert data is not None
    if data.dtype.kind == "f":
        scale, zero, integers = dynamic_affine(data.astype(np.float32))
        return integers, scale, zero
    return data, np.float32(scalar(values, where.data_scale, 1.0)), int(scalar(values, where.data_zero, 0))


def scalar(values: list[Array | None], index: int, default: float) -> float:
    """The first number of an input, or what holds where there is none."""
    array = values[index] if 0 <= index < len(values) else None
    return default if array is None else float(np.asarray(array).reshape(-1)[0])


def finished(
    node: onnx.NodeProto, where: Operands, values: list[Array | None], sums: Integers, scale: np.float32
) -> Array:
    """Sums to what the operator gives: integers again, float, or the sums themselves."""
    if node.op_type == "MatMulInteger":
        return sums.astype(np.int32)
    weight_scale, bias = (values[i] if 0 <= i < len(values) else None for i in (where.weight_scale, where.bias))
    steps = scale * np.asarray(weight_scale, np.float32).reshape(-1)
    out_scale = values[where.out_scale] if 0 <= where.out_scale < len(values) else None
    if bias is not None and bias.dtype == np.int32:
        sums = sums + bias.astype(np.int64).reshape(-1)
    if out_scale is None:
        real = sums.astype(np.float32) * steps
        return real if bias is None or bias.dtype == np.int32 else real + bias.astype(np.float32)
    factor = steps / np.asarray(out_scale, np.float32).reshape(-1)
    out_zero = values[where.out_zero] if where.out_zero < len(values) else None
    dtype = "uint8" if out_zero is None else out_zero.dtype.name
    zero, limits = int(scalar(values, where.out_zero, 0)), np.iinfo(dtype)
    return (np.clip(np.rint(sums.astype(np.float32) * factor), limits.min - zero, limits.max - zero) + zero).astype(
        dtype
    )


def constant_weight(node: onnx.NodeProto, constants: Mapping[str, Array]) -> Array | None:
    """The constant int8 weight; None where it is made at run time or unsigned (unsigned kernels add in 32 bits)."""
    name = node.input[OPERATORS[node.op_type].weight]
    array = constants.get(name)
    rank_fits = array is not None and (node.op_type == "QLinearConv" or array.ndim == 2)  # noqa: PLR2004 - a matrix
    return array if rank_fits and array is not None and array.dtype == np.int8 else None
