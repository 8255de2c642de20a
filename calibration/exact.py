"""Computes a graph of integer operators with exact sums, on a CPU that adds products in pairs of 16 bits.

Only what may saturate is computed here (see `calibration.saturation`), in numpy; the rest runs in ONNX Runtime, whose
sums are exact there: signed activations, unsigned or small weights, depthwise kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx

from calibration.integerops import (
    OPERATORS,
    Array,
    arranged,
    exact_sums,
    is_direct,
    number,
    out_shape,
    possible_share,
    rows,
    weight_matrices,
)
from calibration.operands import activation, constant_weight, finished
from calibration.stepwise import Stepwise

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHT_ZERO: Final[Mapping[str, int]] = {
    "QLinearConv": 5,
    "QLinearMatMul": 5,
    "QGemm": 5,
    "MatMulIntegerToFloat": 5,
    "DynamicQuantizeMatMul": 3,
    "MatMulInteger": 3,
}
"""Which input of an operator holds the zero points of its weight."""

_WEIGHTS: Final[Mapping[str, tuple[int, ...]]] = {
    **{op: (where.weight,) for op, where in OPERATORS.items()},
    "ConvInteger": (1,),
    "DynamicQuantizeLSTM": (1, 2),
    "QAttention": (1,),
}
"""Where the operators that add products of 8 bits have their weights, those that cannot be followed included."""

_TOP: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubtful:
    """Nodes of a graph whose sums may saturate on a CPU without VNNI, by name, in the order of the graph.

    Attributes:
        followed: `Exact` computes them.
        unfollowed: They add inside themselves, or have weights that are no constant matrix: nobody computes them
            otherwise; with their operators.
    """

    followed: tuple[str, ...]
    unfollowed: tuple[str, ...]


def doubtful(model: onnx.ModelProto) -> Doubtful:
    """Which nodes of a graph of integer operators may saturate, whatever the input.

    Args:
        model: All weights inside; nodes with the names that `named` gives.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    followed, unfollowed = [], []
    for node in model.graph.node:
        if node.op_type not in _WEIGHTS or _is_signed(node, constants):
            continue
        arrays = {n: onnx.numpy_helper.to_array(constants[n]) for n in node.input if n in constants}
        weights = [arrays.get(node.input[index]) for index in _WEIGHTS[node.op_type]]
        if _can_be_followed(node, arrays):
            (weight,) = weights
            assert weight is not None
            if any(possible_share(part) for part in weight_matrices(node, weight)) and not is_direct(node, weight):
                followed.append(node.name)
        elif any(_may_saturate(weight) for weight in weights):
            unfollowed.append(f"{node.op_type} {node.name!r}")
    return Doubtful(followed=tuple(followed), unfollowed=tuple(unfollowed))


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, changed in place: each node has a name, and no other node has it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}__{index}"
        seen.add(node.name)
    return model


@final
class Exact:
    """A graph of integer operators that runs with exact sums.

    Args:
        model: All weights inside, nodes as `named` leaves them.
        nodes: Names of the nodes to compute here: `Doubtful.followed`.
        threads: Threads inside one operator of the runtime.
    """

    def __init__(self, model: onnx.ModelProto, nodes: tuple[str, ...], *, threads: int) -> None:
        self._model = Stepwise(model, frozenset(nodes), threads=threads)
        chosen = {node.name: node for node in model.graph.node if node.name in nodes}
        weights = {name: self._model.arrays[n.input[OPERATORS[n.op_type].weight]] for name, n in chosen.items()}
        self._kernels = {name: weight.shape[2:] for name, weight in weights.items()}
        self._matrices = {name: self._centred(node, weights[name]) for name, node in chosen.items()}

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name of one batch, ``(batch, ...)``."""
        return self._model.run(feed, self._compute)

    def _centred(self, node: onnx.NodeProto, weight: Array) -> list[Array]:
        """The weight less its zero points, (K, N) for each group, int16."""
        matrices = weight_matrices(node, weight)
        index = _WEIGHT_ZERO[node.op_type]
        zero = self._model.arrays[node.input[index]] if len(node.input) > index and node.input[index] else np.int8(0)
        columns = sum(part.shape[1] for part in matrices)
        zeros = np.split(np.broadcast_to(np.asarray(zero, np.int16).reshape(-1), (columns,)), len(matrices))
        return [part.astype(np.int16) - own for part, own in zip(matrices, zeros, strict=True)]

    def _compute(self, node: onnx.NodeProto, known: Mapping[str, Array]) -> dict[str, Array]:
        where = OPERATORS[node.op_type]
        values = [known.get(name, self._model.arrays.get(name)) if name else None for name in node.input]
        data, scale, zero = activation(where, values)
        last = bool(number(node, "channels_last", 0))
        data = np.moveaxis(data, -1, 1) if last else data
        kernel, matrices = self._kernels[node.name], self._matrices[node.name]
        offsets = [zero * matrix.astype(np.int64).sum(axis=0) for matrix in matrices]
        parts = [
            np.concatenate(
                [
                    exact_sums(left, matrix) - offset
                    for left, matrix, offset in zip(stretch, matrices, offsets, strict=True)
                ],
                axis=1,
            )
            for stretch in rows(node, data, zero, kernel)
        ]
        sums = np.concatenate(parts)  # (rows, N)
        made = arranged(node, finished(node, where, values, sums, scale), out_shape(node, data, sums.shape[1], kernel))
        return {node.output[0]: np.ascontiguousarray(np.moveaxis(made, 1, -1)) if last else made}


def _is_signed(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the activation is known to be signed: kernels for those widen both sides to 16 bits first."""
    if node.op_type not in OPERATORS:
        return False
    index = OPERATORS[node.op_type].data_zero
    zero = constants.get(node.input[index]) if 0 <= index < len(node.input) else None
    return zero is not None and zero.data_type == onnx.TensorProto.INT8


def _can_be_followed(node: onnx.NodeProto, arrays: Mapping[str, Array]) -> bool:
    """Whether it multiplies by a constant matrix, with one scale for the activation and one for the output."""
    if node.op_type not in OPERATORS or constant_weight(node, arrays) is None:
        return False
    where, zero = OPERATORS[node.op_type], _WEIGHT_ZERO[node.op_type]
    single = (where.data_scale, where.data_zero, where.out_scale, where.out_zero)
    read = [node.input[index] for index in single if 0 <= index < len(node.input)]
    scaled = any(attribute.name == "alpha" and attribute.f != 1.0 for attribute in node.attribute)
    return (
        not scaled
        and all(arrays[name].size == 1 for name in read if name in arrays)
        and (len(node.input) <= zero or not node.input[zero] or node.input[zero] in arrays)
    )


def _may_saturate(weight: Array | None) -> bool:
    """Of a weight that is not multiplied here, in whatever order; one made at run time is unsigned in our dialects."""
    if weight is None or weight.dtype != np.int8:
        return False
    return 2 * _TOP * int(np.abs(weight.astype(np.int16)).max(initial=0)) > np.iinfo(np.int16).max
