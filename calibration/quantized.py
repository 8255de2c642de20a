"""Reads a Q/DQ file back: where its integers, scales and zero points are; new values go into the same places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.integerops import number
from calibration.layout import without_turns
from calibration.numerics import MIN_SCALE
from calibration.pairs import WIDE, fits, room
from targets.errors import InputError
from targets.scheme import SCHEMES

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

Array = NDArray[np.generic]
Floats = NDArray[np.float32]

INTEGERS: Final = "__quantized"
"""What the writer appends to a tensor's name for its integers."""

_WEIGHT: Final = 1
_BIAS: Final = 2
_INT32: Final = np.iinfo(np.int32)
_PRESCRIBED: Final = {(one.activation_dtype, op) for one in SCHEMES.values() for op, _ in one.fixed_ranges}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQ:
    """A constant stored as integers behind a DequantizeLinear: a weight, a bias or an element-wise operand.

    Attributes:
        node: The node that reads it.
        op: That node's operator.
        source: Name of the float tensor it was made from.
        integers: Initializer with the integers.
        scale: Initializer with the scales: ``()`` or one for each index of ``axis``.
        zero: Initializer with the zero points, None where there is none.
        axis: Channel axis, None for one scale.
        dequantized: The tensor the node reads.
        limit: Largest magnitude an integer may have: what the number of bits in use allows (127, 63, 7, ...); see
            `QuantizedGraph.bounds`.
    """

    node: str
    op: str
    source: str
    integers: str
    scale: str
    zero: str | None
    axis: int | None
    dequantized: str
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasQ:
    """The bias of a compute node.

    Attributes:
        node: The node.
        values: Initializer: int32 integers, or plain float32.
        scale: Initializer with their scales, which must be input scale x weight scale; None for a float bias.
        dequantized: The tensor the node reads.
        input_scale: Initializer with the scale of the node's input, None where the input is float.
        weight_scale: Initializer with the scales of its weight, None where the weight is float.
    """

    node: str
    values: str
    scale: str | None
    dequantized: str
    input_scale: str | None
    weight_scale: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationQ:
    """A quantised activation.

    Attributes:
        tensor: Its name in the float graph.
        scale: Initializer with the scale, the same for all tensors of a scale group.
        zero: Initializer with the zero point, None where there is none.
        source: What its QuantizeLinear reads, None where another node made the integers (pooling, slicing, ...).
        integers: Name of the integer tensor.
        dequantized: Names of its float readings.
    """

    tensor: str
    scale: str
    zero: str | None
    source: str | None
    integers: str
    dequantized: tuple[str, ...]


@final
class QuantizedGraph:
    """A Q/DQ model with its parts named. Writing changes only the initializers that are named.

    Attributes:
        model: The model, changed in place by the setters.
        weights: Node -> its weight (Conv, ConvTranspose, Gemm, MatMul, ...).
        biases: Node -> its bias, int32 or float.
        constants: (node, input index) -> any other constant operand stored as integers.
        activations: Float tensor -> where its scale is.
        groups: Scale initializer -> the activations that share it.
        fixed: Scale initializers that an engine prescribes: nothing may learn them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = {node.name: node for node in model.graph.node}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self.weights: dict[str, StoredQ] = {}
        self.biases: dict[str, BiasQ] = {}
        self.constants: dict[tuple[str, int], StoredQ] = {}
        for node in model.graph.node:
            self._read_constants(node)
        self.activations = self._read_activations()
        self.groups: dict[str, tuple[str, ...]] = {}
        for activation in self.activations.values():
            self.groups[activation.scale] = (*self.groups.get(activation.scale, ()), activation.tensor)
        self.fixed = self._prescribed()
        self._real_biases = {node: self._stored_bias(bias) for node, bias in self.biases.items()}

    def array(self, initializer: str) -> Array:
        """A copy of an initializer.

        Raises:
            InputError: There is none of that name.
        """
        return np.array(numpy_helper.to_array(self._tensor(initializer)))

    def weight_values(self, node: str) -> Floats:
        """The weight as the node sees it: integers times scale."""
        return self.stored_values(self.weights[node])

    def bounds(self, stored: StoredQ) -> tuple[Array, Array]:
        """How low and how high the integers of a weight may go: single numbers, or one for each integer.

        A weight none of whose pairs can leave 16 bits (`calibration.pairs`) stays so, whatever is learned.
        """
        node, integers = self._nodes[stored.node], self.array(stored.integers)
        axis = 0 if stored.op == "Conv" or (stored.op == "Gemm" and number(node, "transB", 0)) else 1
        if stored.limit == WIDE and fits(integers, axis, number(node, "group", 1)):
            return room(integers, axis)
        return np.array(-stored.limit), np.array(stored.limit)

    def stored_weights(self) -> dict[str, StoredQ]:
        """The weights by their initializer of integers; one that several nodes read stands once."""
        return {stored.integers: stored for stored in reversed(self.weights.values())}

    def stored_values(self, stored: StoredQ) -> Floats:
        """Any stored constant in real numbers, float32."""
        integers = self.array(stored.integers).astype(np.float32)
        shape = broadcast_shape(integers.ndim, stored.axis)
        if stored.zero is not None:
            integers = integers - self.array(stored.zero).astype(np.float32).reshape(shape)
        return np.asarray(integers * self.array(stored.scale).astype(np.float32).reshape(shape), np.float32)

    def bias_values(self, node: str) -> NDArray[np.float64]:
        """The bias in real numbers, one for each output channel."""
        return self._real_biases[node].copy()

    def write_integers(self, initializer: str, array: Array) -> None:
        """Puts integers into an initializer, of its shape and within its type.

        Raises:
            InputError: The shape differs or a value does not fit.
        """
        tensor = self._tensor(initializer)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        rounded = np.asarray(array)
        limits = np.iinfo(dtype)
        if rounded.shape != tuple(tensor.dims) or (
            rounded.size and not (limits.min <= rounded.min() and rounded.max() <= limits.max)
        ):
            raise InputError(
                f"initializer {initializer!r} takes {dtype} {list(tensor.dims)}",
                f"given were {rounded.dtype} {list(rounded.shape)}, or values that do not fit",
                "round, clip and shape the integers first",
            )
        _put(tensor, rounded.astype(dtype))

    def write_scale(self, initializer: str, array: Array) -> None:
        """Puts scales into an initializer; int32 biases that are counted in them keep their real values.

        Raises:
            InputError: The shape differs, or a scale is not finite and positive (below `MIN_SCALE` counts as zero).
        """
        tensor, scales = self._tensor(initializer), np.asarray(array, np.float32)
        if scales.shape != tuple(tensor.dims) or not (np.isfinite(scales).all() and (scales >= MIN_SCALE).all()):
            raise InputError(
                f"initializer {initializer!r} takes positive scales of shape {list(tensor.dims)}",
                f"given were shape {list(scales.shape)}, smallest {scales.min() if scales.size else 'none'}",
                f"keep scales finite and at least {MIN_SCALE}",
            )
        _put(tensor, scales)
        for node, bias in self.biases.items():
            if initializer in {bias.input_scale, bias.weight_scale}:
                self.write_bias(node, self._real_biases[node])

    def write_bias(self, node: str, values: Array) -> None:
        """Puts a bias, given in real numbers, into the file: rounded to int32 steps, or as float32.

        Raises:
            InputError: The shape differs, or a value is not finite or does not fit int32.
        """
        bias = self.biases[node]
        tensor, real = self._tensor(bias.values), np.asarray(values, np.float64)
        if real.size != int(np.prod(tensor.dims)) or not np.isfinite(real).all():
            raise InputError(
                f"the bias of {node!r} has {int(np.prod(tensor.dims))} values",
                f"given were {real.size}, or some are NaN or Inf",
                "give one finite value for each output channel",
            )
        real = real.reshape(tuple(tensor.dims))
        if bias.scale is None:
            _put(tensor, real.astype(np.float32))
        else:
            steps = self._bias_steps(bias)
            integers = np.rint(real / steps.astype(np.float64))
            if np.abs(integers).max(initial=0.0) > _INT32.max:
                raise InputError(
                    f"the bias of {node!r} does not fit int32",
                    f"its largest value is {np.abs(integers).max():.3g} steps of input scale x weight scale",
                    "keep that channel's scale larger, or leave the layer in float",
                )
            _put(tensor, integers.astype(np.int32))
            _put(self._tensor(bias.scale), steps)
        self._real_biases[node] = real.reshape(-1)

    def save(self, path: Path) -> None:
        """Writes the model; the same values give the same bytes."""
        path.write_bytes(self.model.SerializeToString(deterministic=True))

    def _bias_steps(self, bias: BiasQ) -> Floats:
        shape = tuple(self._tensor(str(bias.scale)).dims)
        if bias.input_scale is None or bias.weight_scale is None:
            return self.array(str(bias.scale)).astype(np.float32)
        steps = self.array(bias.input_scale).astype(np.float32) * self.array(bias.weight_scale).astype(np.float32)
        return np.asarray(np.broadcast_to(steps, shape), np.float32).copy()

    def _stored_bias(self, bias: BiasQ) -> NDArray[np.float64]:
        values = self.array(bias.values).astype(np.float64)
        if bias.scale is not None:
            values = values * self.array(bias.scale).astype(np.float64)
        return values.reshape(-1)

    def _read_constants(self, node: onnx.NodeProto) -> None:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            return
        weighty = len(node.input) > _WEIGHT and self._is_weight(node)
        for index, name in enumerate(node.input):
            stored = self._stored(node, name)
            if stored is not None and weighty and index == _WEIGHT:
                self.weights[node.name] = stored
            elif weighty and index == _BIAS and (stored is not None or name in self._tensors):
                self.biases[node.name] = self._bias(node, name, stored)
            elif stored is not None:
                self.constants[node.name, index] = stored

    def _is_weight(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
            and self._stored(node, node.input[_WEIGHT]) is not None
        )

    def _stored(self, node: onnx.NodeProto, name: str) -> StoredQ | None:
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in self._tensors:
            return None
        scale = self._tensor(maker.input[1])
        axis = next((int(attribute.i) for attribute in maker.attribute if attribute.name == "axis"), 1)
        integers = self._tensor(maker.input[0])
        return StoredQ(
            node=node.name,
            op=node.op_type,
            source=self._source(maker.input[0]),
            integers=maker.input[0],
            scale=maker.input[1],
            zero=maker.input[2] if len(maker.input) > 2 and maker.input[2] else None,  # noqa: PLR2004 - (x, scale, zero)
            axis=axis % max(len(integers.dims), 1) if len(scale.dims) else None,
            dequantized=name,
            limit=_limit(np.asarray(numpy_helper.to_array(integers))),
        )

    def _source(self, integers: str) -> str:
        """``NAME`` of ``NAME__NODE__quantized``; a weight read by several nodes carries the name of the first."""
        name = integers.removesuffix(INTEGERS)
        ends = (at for at in range(1, len(name)) if name.startswith("__", at) and name[at + 2 :] in self._nodes)
        return name[: next(ends, len(name))]

    def _bias(self, node: onnx.NodeProto, name: str, stored: StoredQ | None) -> BiasQ:
        maker = self._makers.get(node.input[0])
        quantised = maker is not None and maker.op_type == "DequantizeLinear"
        return BiasQ(
            node=node.name,
            values=stored.integers if stored else name,
            scale=stored.scale if stored else None,
            dequantized=name,
            input_scale=maker.input[1] if maker is not None and quantised else None,
            weight_scale=self.weights[node.name].scale,
        )

    def _read_activations(self) -> dict[str, ActivationQ]:
        found: dict[str, ActivationQ] = {}
        readings: dict[str, list[str]] = {}
        for node in self.model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] not in self._tensors:
                readings.setdefault(node.input[0], []).append(node.output[0])
        for node in self.model.graph.node:
            moved = node.op_type == "DequantizeLinear" and node.input[0] in readings
            if node.op_type != "QuantizeLinear" and not moved:
                continue
            integers = node.input[0] if moved else node.output[0]
            tensor, scale = integers.removesuffix(INTEGERS), self._single(node.input[1])
            if tensor in found or scale not in self._tensors or (not moved and node.input[0] in self._tensors):
                continue
            maker = self._makers.get(integers)
            found[tensor] = ActivationQ(
                tensor=tensor,
                scale=scale,
                zero=self._single(node.input[2]) if len(node.input) > 2 and node.input[2] else None,  # noqa: PLR2004 - (x, scale, zero)
                source=maker.input[0] if maker is not None and maker.op_type == "QuantizeLinear" else None,
                integers=integers,
                dequantized=tuple(readings.get(integers, ())),
            )
        return found

    def _prescribed(self) -> frozenset[str]:
        """Scales of outputs for which a dialect with this type of activations has a fixed range."""
        made = [(one, self._makers.get(one.source or "")) for one in self.activations.values() if one.zero]
        kinds = [(one.scale, (self.array(str(one.zero)).dtype.name, maker.op_type)) for one, maker in made if maker]
        return frozenset(scale for scale, kind in kinds if kind in _PRESCRIBED)

    def _single(self, name: str) -> str:
        """The initializer behind a scale or zero point that is laid out along channels, else the name itself."""
        maker = self._makers.get(name)
        return str(maker.input[0]) if maker is not None and maker.op_type == "Expand" else name

    def _tensor(self, name: str) -> onnx.TensorProto:
        try:
            tensor: onnx.TensorProto = self._tensors[name]
        except KeyError:
            raise InputError(
                f"the model has no initializer {name!r}",
                "a Q/DQ file keeps integers, scales and zero points as initializers",
                "give the file as it was written",
            ) from None
        return tensor


def read_quantized(model: onnx.ModelProto) -> QuantizedGraph:
    """The parts of a Q/DQ model, in place without what only turns layouts (`calibration.layout`).

    Raises:
        InputError: It holds no quantised weight.
    """
    graph = QuantizedGraph(without_turns(model))
    if not graph.weights:
        raise InputError(
            "the model holds no quantised weight",
            "no Conv, ConvTranspose, Gemm or MatMul reads one through DequantizeLinear",
            "quantise the model first",
        )
    return graph


def broadcast_shape(rank: int, axis: int | None) -> tuple[int, ...]:
    """The shape that lays one value per index of ``axis`` along a tensor; ``()`` for a single value."""
    return () if axis is None else tuple(-1 if i == axis else 1 for i in range(rank))


def _limit(integers: Array) -> int:
    """2^(bits - 1) - 1 for the fewest bits that hold these integers, within their type."""
    largest = int(np.abs(integers.astype(np.int64)).max(initial=1))
    bits: int = 2 ** largest.bit_length() - 1
    return min(bits, _type_limit(integers))


def _type_limit(integers: Array) -> int:
    small = {"int4": 7, "uint4": 15, "int2": 1, "uint2": 3}
    return small.get(integers.dtype.name) or int(np.iinfo(integers.dtype.name).max)


def _put(tensor: onnx.TensorProto, array: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(tuple(tensor.dims)), tensor.name))
