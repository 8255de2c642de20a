"""Integer operators of ONNX Runtime in numpy: exact sums, and sums as CPUs make them that add pairs in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

Array = NDArray[np.generic]
Integers = NDArray[np.int64]

_ROWS: Final = 8192
_EXACT_FLOAT32: Final = 2**24
_INT16: Final = np.iinfo(np.int16)
_TOP: Final = 255


class Operands(NamedTuple):
    """Where an operator keeps what it multiplies: indices of its inputs, -1 for none."""

    data: int
    data_scale: int
    data_zero: int
    weight: int
    weight_scale: int
    bias: int
    out_scale: int
    out_zero: int


OPERATORS: Final[Mapping[str, Operands]] = {
    "QLinearConv": Operands(0, 1, 2, 3, 4, 8, 6, 7),
    "QLinearMatMul": Operands(0, 1, 2, 3, 4, -1, 6, 7),
    "QGemm": Operands(0, 1, 2, 3, 4, 6, 7, 8),
    "MatMulIntegerToFloat": Operands(0, 2, 4, 1, 3, 6, -1, -1),
    "DynamicQuantizeMatMul": Operands(0, -1, -1, 1, 2, 4, -1, -1),
    "MatMulInteger": Operands(0, -1, 2, 1, -1, -1, -1, -1),
}
"""Operators whose sums follow the order below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What one operator added up.

    Attributes:
        exact: The sums, (rows, channels).
        saturated: The same, each pair limited to 16 bits.
        pairs: How many pairs were added.
        hit: How many of them did not fit.
    """

    exact: Integers
    saturated: Integers
    pairs: int
    hit: int


def weight_matrices(node: onnx.NodeProto, weight: Array) -> list[Array]:
    """A constant weight as (K, N), one matrix for each group; K in the order in which products are paired.

    The runtime's kernels run over positions of the window first and channels inside them, whatever the layout of the
    tensors: the reordered filter is (kH, kW, C, N) and neighbours k, k+1 of even k share a 16-bit sum. A group whose
    last pair is short is filled with a zero.
    """
    if node.op_type == "QLinearConv":
        groups = number(node, "group", 1)
        parts = np.split(weight, groups, axis=0)
        return [np.moveaxis(part, 1, -1).reshape(len(part), -1).T for part in parts]
    if node.op_type == "QGemm" and number(node, "transB", 0):
        return [weight.T]
    return [weight]


def is_direct(node: onnx.NodeProto, weight: Array) -> bool:
    """Whether a convolution has one channel in and out of each group: those kernels multiply in 32 bits."""
    return node.op_type == "QLinearConv" and weight.shape[1] == 1 and weight.shape[0] == number(node, "group", 1)


def rows(node: onnx.NodeProto, data: Array, zero: int, kernel: Sequence[int]) -> Iterator[list[Array]]:
    """The left side of the product as (rows, K), one array for each group, in stretches that fit the memory."""
    if node.op_type != "QLinearConv":
        matrix = data.T if node.op_type == "QGemm" and number(node, "transA", 0) else data
        flat = matrix.reshape(-1, matrix.shape[-1])
        for start in range(0, len(flat), _ROWS):
            yield [flat[start : start + _ROWS]]
        return
    spatial = len(kernel)
    order = (0, *range(2, 2 + spatial), *range(2 + spatial, 2 + 2 * spatial), 1)
    together = max(_ROWS // max(int(np.prod(_out_sizes(node, data.shape[2:], kernel))), 1), 1)
    for start in range(0, len(data), together):
        windows = _windows(node, data[start : start + together], zero, kernel)  # (N, C, out..., k...)
        parts = np.split(windows, number(node, "group", 1), axis=1)
        yield [part.transpose(order).reshape(-1, int(np.prod(kernel)) * part.shape[1]) for part in parts]


def out_shape(node: onnx.NodeProto, data: Array, channels: int, kernel: Sequence[int]) -> tuple[int, ...]:
    """Shape of the operator's output."""
    if node.op_type != "QLinearConv":
        transposed = node.op_type == "QGemm" and number(node, "transA", 0)
        return (*(data.T if transposed else data).shape[:-1], channels)
    return (len(data), channels, *_out_sizes(node, data.shape[2:], kernel))


def arranged(node: onnx.NodeProto, sums: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """(rows, channels) in the operator's own output shape."""
    if node.op_type != "QLinearConv":
        return sums.reshape(shape)
    return np.moveaxis(sums.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def add_up(left: Array, weight: Array) -> Sums:
    """Sums over K of ``left`` (rows, K) uint8 and ``weight`` (K, N) int8, exact and with 16-bit pairs.

    A pair that cannot leave 16 bits for any of these rows is not looked at again.
    """
    exact = exact_sums(left, weight)
    if left.shape[1] % 2:
        left = np.pad(left, ((0, 0), (0, 1)))
        weight = np.pad(weight, ((0, 1), (0, 0)))
    even, odd = weight[0::2].astype(np.int32), weight[1::2].astype(np.int32)
    pairs = np.ascontiguousarray(left.reshape(len(left), -1, 2).transpose(2, 1, 0))  # (2, K / 2, rows)
    largest = pairs.max(axis=2, initial=0).astype(np.int32)[..., None]
    possible = may_saturate(largest[0], largest[1], even, odd)  # (K / 2, N)
    saturated, hit = exact.copy(), 0
    for pair in np.flatnonzero(possible.any(axis=1)):
        columns = np.flatnonzero(possible[pair])
        lines = _reaching(pairs[:, pair], even[pair, columns], odd[pair, columns])
        first, second = pairs[:, pair, lines].astype(np.int32)[..., None]
        sums = first * even[pair, columns] + second * odd[pair, columns]
        over = sums - np.clip(sums, _INT16.min, _INT16.max)
        hit += int(np.count_nonzero(over))
        saturated[lines[:, None], columns] -= over
    return Sums(exact=exact, saturated=saturated, pairs=len(left) * len(even) * weight.shape[1], hit=hit)


def _reaching(pair: Array, even: NDArray[np.int32], odd: NDArray[np.int32]) -> NDArray[np.int64]:
    """Rows whose two inputs (2, rows) can leave 16 bits for some of these channels."""
    first, second = pair.astype(np.float32)  # exact: below 2**17
    reach = np.maximum(
        first * np.float32(max(even.max(), 0)) + second * np.float32(max(odd.max(), 0)),
        first * np.float32(max(-even.min(), 0)) + second * np.float32(max(-odd.min(), 0)),
    )
    return np.flatnonzero(reach > _INT16.max)


def may_saturate(
    first: NDArray[np.int32] | int, second: NDArray[np.int32] | int, even: NDArray[np.int32], odd: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Which pairs of weights leave 16 bits for some inputs from 0 to ``first`` and ``second``."""
    high = first * np.maximum(even, 0) + second * np.maximum(odd, 0)
    low = first * np.minimum(even, 0) + second * np.minimum(odd, 0)
    found: NDArray[np.bool_] = np.asarray((high > _INT16.max) | (low < _INT16.min))
    return found


def possible_share(weight: Array) -> float:
    """Share of the pairs of a weight (K, N) that some input of 8 bits drives out of 16 bits."""
    padded = np.pad(weight, ((0, len(weight) % 2), (0, 0))).astype(np.int32)
    found = may_saturate(_TOP, _TOP, padded[0::2], padded[1::2])
    return float(found.mean()) if found.size else 0.0


def exact_sums(left: Array, weight: Array) -> Integers:
    """The product in integers: by floating point, in a type that holds every partial sum exactly."""
    largest = _TOP * int(np.abs(weight.astype(np.int64)).sum(axis=0).max(initial=0))
    dtype = np.float32 if largest < _EXACT_FLOAT32 else np.float64
    return np.asarray(left.astype(dtype) @ weight.astype(dtype)).astype(np.int64)


def dynamic_affine(data: NDArray[np.float32]) -> tuple[np.float32, int, NDArray[np.uint8]]:
    """Scale, zero point and integers as DynamicQuantizeLinear finds them for one tensor."""
    low, high = np.float32(min(float(data.min()), 0.0)), np.float32(max(float(data.max()), 0.0))
    scale = np.float32((high - low) / np.float32(_TOP)) if high > low else np.float32(1.0)
    zero = int(np.rint(np.clip(np.float32(0.0) - low / scale, 0, _TOP)))
    return scale, zero, np.clip(np.rint(data / scale) + zero, 0, _TOP).astype(np.uint8)


def number(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node, or its default."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _numbers(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next(([*attribute.ints] for attribute in node.attribute if attribute.name == name), default)


def _geometry(
    node: onnx.NodeProto, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    count = len(kernel)
    strides = _numbers(node, "strides", [1] * count)
    dilations = _numbers(node, "dilations", [1] * count)
    pads = _numbers(node, "pads", [0] * (2 * count))
    auto = next((a.s.decode() for a in node.attribute if a.name == "auto_pad"), "NOTSET")
    if auto.startswith("SAME"):
        for axis in range(count):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((-(-sizes[axis] // strides[axis]) - 1) * strides[axis] + span - sizes[axis], 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + count] = (small, large) if auto == "SAME_UPPER" else (large, small)
    return strides, dilations, [(pads[axis], pads[axis + count]) for axis in range(count)]


def _out_sizes(node: onnx.NodeProto, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    strides, dilations, pads = _geometry(node, sizes, kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return [(n + sum(p) - span) // s + 1 for n, p, span, s in zip(sizes, pads, spans, strides, strict=True)]


def _windows(node: onnx.NodeProto, data: Array, zero: int, kernel: Sequence[int]) -> Array:
    """(N, C, sizes...) -> (N, C, out sizes..., kernel...), what lies outside being the zero point."""
    strides, dilations, pads = _geometry(node, data.shape[2:], kernel)
    padded = np.pad(data, [(0, 0), (0, 0), *pads], constant_values=zero)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, data.ndim)))
    whole = slice(None)
    return windows[(whole, whole, *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))]
