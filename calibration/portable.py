"""Nudges scales of sums and products so that every CPU rounds them alike: the same int8 outputs on x86 and on Arm.

ONNX Runtime adds two quantised tensors in float on x86 and in fixed point on Arm, so the two differ where the exact sum
lies next to the middle between two integers (within 4e-5 of a step, as measured with 1.32). There are only 256 x 256
pairs of inputs: an output scale without such a pair is found by trying, some hundred-thousandths above the calibrated
one. Products agree when the ratio of their scales has few significant bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CLEARANCE: Final = 8e-5
"""Distance from a tie, in steps, that every sum keeps: twice what differs between the kernels of ONNX Runtime 1.32."""
RATIO_BITS: Final = 8
_STEP: Final = 2e-6
_TRIES: Final = 5_000
_PAIR: Final = 2
_BIAS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableReport:
    """What was done.

    Attributes:
        adjusted: Sums and products whose scale was raised, and by which share.
        left: Sums and products that may still round differently, and why.
    """

    adjusted: dict[str, float]
    left: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Grid:
    """``real = scale * (integer - zero)``; ``name`` is the scale's initializer."""

    name: str
    scale: float
    zero: int
    low: int
    high: int

    def values(self) -> NDArray[np.float64]:
        """All real values that it can hold."""
        steps: NDArray[np.float64] = np.arange(self.low, self.high + 1, dtype=np.float64)
        return self.scale * (steps - self.zero)


def make_portable(model: onnx.ModelProto) -> PortableReport:
    """Raises output scales of Add and Mul between Q/DQ, in place, and restates the biases that follow from them.

    Nodes are visited in order, so that a sum sees the final scales of what it adds. A scale that is also one of the
    node's own inputs', or was set for another node already, is left.
    """
    return _Model(model).run()


def clear_scale(
    a: NDArray[np.float64], b: NDArray[np.float64], out_scale: float, zero: int, low: int, high: int
) -> float:
    """The smallest tried scale from ``out_scale`` on for which no sum of ``a`` and ``b`` lies near a tie; NaN if none.

    Args:
        a: Values of the first operand.
        b: Values of the second.
        out_scale: The calibrated scale of the sum.
        zero: Its zero point.
        low: The smallest integer of the output's type.
        high: The largest.
    """
    sums = (a[:, None] + b).reshape(-1)
    widest = out_scale * (1 + _TRIES * _STEP)
    near = (sums > widest * (low - 1 - zero)) & (sums < widest * (high + 1 - zero))
    sums = np.unique(sums[near])
    for k in range(_TRIES):
        scale = float(np.float32(out_scale * (1 + k * _STEP)))
        exact = sums / scale + zero
        if not exact.size or np.abs(exact - np.floor(exact) - 0.5).min() >= CLEARANCE:
            return scale
    return math.nan


def short_ratio_scale(product: float, out_scale: float) -> float:
    """The smallest scale from ``out_scale`` on for which ``product / scale`` has `RATIO_BITS` significant bits."""
    mantissa, exponent = math.frexp(product / out_scale)
    ratio = math.ldexp(math.floor(mantissa * 2**RATIO_BITS), exponent - RATIO_BITS)
    return float(np.float32(product / ratio))


@final
class _Model:
    """One Q/DQ model and where its quantised tensors come from."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._adjusted: dict[str, float] = {}
        self._left: dict[str, str] = {}
        self._fixed: set[str] = set()

    def run(self) -> PortableReport:
        for node, a, b, out in self._found():
            why = self._hindrance(a, b, out)
            if why:
                self._left[node.name] = why
                continue
            scale = self._scale(node, a, b, out)
            self._fixed.add(out.name)
            if math.isnan(scale):
                self._left[node.name] = "no scale near the calibrated one is clear of ties"
            elif scale != out.scale:
                self._write(out.name, np.array(scale, np.float32))
                self._adjusted[node.name] = scale / out.scale - 1
        if self._adjusted:
            self._restate_biases()
        return PortableReport(adjusted=self._adjusted, left=self._left)

    def _hindrance(self, a: _Grid, b: _Grid, out: _Grid) -> str:
        if out.name in {a.name, b.name}:
            return "its output shares the scale of an input"
        return "its output shares the scale of another sum" if out.name in self._fixed else ""

    def _scale(self, node: onnx.NodeProto, a: _Grid, b: _Grid, out: _Grid) -> float:
        if node.op_type == "Mul":
            return short_ratio_scale(a.scale * b.scale, out.scale)
        return clear_scale(a.values(), b.values(), out.scale, out.zero, out.low, out.high)

    def _found(self) -> Iterator[tuple[onnx.NodeProto, _Grid, _Grid, _Grid]]:
        """Sums and products of two quantised tensors whose result is quantised at once; scales read when yielded."""
        for node in self._graph.node:
            if node.op_type not in {"Add", "Mul"} or len(node.input) != _PAIR:
                continue
            grids = [self._grid(self._makers.get(name), "DequantizeLinear") for name in node.input]
            readers = self._readers.get(node.output[0], [])
            out = self._grid(readers[0], "QuantizeLinear") if len(readers) == 1 else None
            if grids[0] is not None and grids[1] is not None and out is not None:
                yield node, grids[0], grids[1], out

    def _grid(self, node: onnx.NodeProto | None, kind: str) -> _Grid | None:
        """The per-tensor grid of a Q or DQ node; None for anything else."""
        if node is None or node.op_type != kind or len(node.input) <= _PAIR:
            return None
        scale, zero = (self._initializers.get(name) for name in node.input[1:3])
        if scale is None or zero is None or math.prod(scale.dims) != 1:
            return None
        number = numpy_helper.to_array(zero).reshape(-1)[0]
        limits = np.iinfo(number.dtype)
        if limits.bits > 8:  # noqa: PLR2004 - pairs of wider integers cannot be tried
            return None
        value = float(numpy_helper.to_array(scale).reshape(-1)[0])
        return _Grid(node.input[1], value, int(number), int(limits.min), int(limits.max))

    def _restate_biases(self) -> None:
        """int32 biases are counted in input scale x weight scale, which may have changed."""
        for node in self._graph.node:
            if node.op_type not in {"Conv", "Gemm", "ConvTranspose"} or len(node.input) <= _BIAS:
                continue
            source, weight, bias = (self._makers.get(name) for name in node.input[:3])
            if source is None or weight is None or bias is None or bias.op_type != "DequantizeLinear":
                continue
            self._restate(source.input[1], weight.input[1], bias)

    def _restate(self, source: str, weight: str, bias: onnx.NodeProto) -> None:
        integers, scales = (numpy_helper.to_array(self._initializers[name]) for name in bias.input[:2])
        if integers.dtype != np.int32:
            return
        step = numpy_helper.to_array(self._initializers[source]).reshape(())
        wanted = np.broadcast_to(np.float32(step) * numpy_helper.to_array(self._initializers[weight]), scales.shape)
        if np.array_equal(wanted, scales):
            return
        real = integers.astype(np.float64) * scales
        self._write(bias.input[0], np.rint(real / wanted.astype(np.float64)).astype(np.int32))
        self._write(bias.input[1], wanted.astype(np.float32))

    def _write(self, name: str, array: NDArray[np.generic]) -> None:
        old = self._initializers[name]
        new = numpy_helper.from_array(np.ascontiguousarray(array).reshape(tuple(old.dims)), name)
        old.CopyFrom(new)
