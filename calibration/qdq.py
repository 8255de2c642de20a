"""The only graph editor for Q/DQ: reads a placement and a calibration table, writes ONNX with explicit Q/DQ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.keepfloat import channels_read, read_by_channel
from calibration.modelfile import model_sha256, open_float, save
from calibration.numerics import activation_affine, quantise, quantise_bias, weight_scales
from calibration.opsets import prepared_for
from calibration.pairs import PAIRED_BITS, WIDE, paired_scales
from calibration.placement import Placement, bias_row, place
from calibration.prepare import constant, main_nodes, remove_unused_initializers, set_initializer
from calibration.rules_weights import int_attribute
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from calibration.table import CalibrationTable
    from targets.scheme import QuantScheme

Range = tuple[float, float]
Array = NDArray[np.generic]
Scales = NDArray[np.float32]
_BIAS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrecision:
    """What became of one node.

    Attributes:
        node: The node's name in the float graph.
        module: The user's module the weight belongs to (``layer1.0.conv1``), empty without weight.
        op: The operator.
        precision: What it runs in.
        reason: Why it stays float, empty for int8.
        weight_snr_db: Signal-to-noise ratio of the quantised weight, None without weight.
    """

    node: str
    module: str
    op: str
    precision: Literal["int8", "float"]
    reason: str
    weight_snr_db: float | None


def quantize_model(
    model_path: Path,
    table: CalibrationTable,
    scheme: QuantScheme,
    method: str,
    out_path: Path,
    *,
    ranges: Mapping[str, Range] | None = None,
    float_nodes: Collection[str] = (),
) -> tuple[LayerPrecision, ...]:
    """Writes the model with Q/DQ; the same arguments give the same bytes.

    A model of more than 1.5 GiB has its weights in ``NAME.data`` beside it.

    Args:
        model_path: The float model.
        table: Ranges measured on that very file.
        scheme: The dialect to emit.
        method: Which of the table's ranges to use.
        out_path: The file to write.
        ranges: Ranges that take the place of the table's, tensor by tensor.
        float_nodes: Nodes of the prepared graph that stay float.

    Raises:
        InputError: The table is of another model or lacks the method or a tensor, the model is quantised already, no
            node of it can run in int8, or one of ``float_nodes`` does not exist.
    """
    model = prepared_for(open_float(model_path), scheme)
    table.check_model(model_sha256(model_path))
    measured = table.ranges(method) | dict(ranges or {})
    placement = place(model.graph, scheme, float_nodes=float_nodes)
    if not placement.weights:
        known = ", ".join(sorted(scheme.compute_operators))
        raise InputError(
            f"no node of {model_path.name} can run in int8",
            "; ".join(sorted({f"{reason}" for reason in placement.reasons.values()}))[:300] or "the graph is empty",
            f"keep the model in float: {scheme.name!r} quantises {known} with constant weights",
        )
    layers = _Editor(model.graph, placement, scheme, _group_ranges(placement, measured)).edit()
    save(model, out_path)
    return layers


def _group_ranges(placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """One range for each scale group, wide enough for all its members, within what folded clamps let through."""
    missing = sorted(set(placement.roots) - set(ranges))
    if missing:
        raise InputError(
            f"the calibration table has no range of tensor {missing[0]!r} ({len(missing)} in all)",
            "it was collected for other tensors",
            "collect the ranges again",
        )
    groups: dict[str, Range] = {}
    for name, root in placement.roots.items():
        low, high = ranges[name]
        if name in placement.caps:
            low, high = 0.0, min(max(high, 0.0), placement.caps[name])
        before = groups.get(root, (math.inf, -math.inf))
        groups[root] = min(before[0], low), max(before[1], high)
    return groups | {placement.roots[name]: pair for name, pair in placement.fixed.items()}


@final
class _Editor:
    """Edits one prepared graph in place, once."""

    def __init__(self, graph: ir.Graph, placement: Placement, scheme: QuantScheme, ranges: Mapping[str, Range]) -> None:
        self._graph, self._placement, self._scheme = graph, placement, scheme
        self._affine = {root: activation_affine(low, high, scheme) for root, (low, high) in ranges.items()}
        self._constants: dict[str, tuple[ir.Value, ...]] = {}
        self._shared: dict[tuple[str, int, bytes], ir.Value] = {}
        self._snr: dict[str, float] = {}

    def edit(self) -> tuple[LayerPrecision, ...]:
        nodes = [(str(node.name), node.op_type) for node in main_nodes(self._graph)]
        for node in [*main_nodes(self._graph)]:
            if node.name in self._placement.weights:
                self._weights(node)
            elif node.name in self._placement.int8:
                self._constant_operands(node)
        for node in [*main_nodes(self._graph)]:
            if node.name in self._placement.folded:
                self._drop(node)
        values = [*self._graph.inputs, *(value for node in main_nodes(self._graph) for value in node.outputs)]
        for value in values:
            if value.name in self._placement.roots:
                self._activation(value)
        remove_unused_initializers(self._graph)
        self._graph.sort()
        return tuple(self._layer(name, op) for name, op in nodes)

    def _layer(self, name: str, op: str) -> LayerPrecision:
        weight = self._placement.weights.get(name)
        return LayerPrecision(
            node=name,
            module=weight[0].removesuffix(".weight") if weight else "",
            op=op,
            precision="int8" if name in self._placement.int8 else "float",
            reason=self._placement.reasons.get(name, ""),
            weight_snr_db=self._snr[name] if weight else None,
        )

    def _weights(self, node: ir.Node) -> None:
        """int8 weight + DequantizeLinear, and the bias as int32 in units of input scale x weight scale."""
        name, axis = self._placement.weights[str(node.name)]
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None
        assert weight is not None
        array = np.asarray(constant(weight), np.float32)
        bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
        offset = bias_row(bias, array.shape[axis]) if self._scheme.bias == "int32" else None
        step = self._affine[self._placement.roots[str(source.name)]].scale
        per_channel, bits = self._scheme.by_channel(node.op_type), self._scheme.weight_bits
        fitted = paired_scales(array, axis, int_attribute(node, "group", 1)) if bits == PAIRED_BITS else None
        scales = weight_scales(array, axis if per_channel else None, bits, offset, step, smallest=fitted)
        shape = [-1 if per_channel and i == axis else 1 for i in range(array.ndim)]
        limit = WIDE if fitted is not None else 2 ** (bits - 1) - 1
        integers = np.clip(np.rint(array / scales.reshape(shape)), -limit, limit).astype(np.int8)
        self._snr[str(node.name)] = snr_db(array, integers * scales.reshape(shape))
        stored = scales if per_channel else scales.reshape(())
        key = (name, axis, stored.tobytes())  # a weight that several nodes read the same way is stored once
        if key not in self._shared:
            self._shared[key] = self._stored(f"{name}__{node.name}", integers, stored, axis)
        node.replace_input_with(1, self._shared[key])
        if offset is not None:
            self._bias(node, offset, np.float32(step) * scales)

    def _bias(self, node: ir.Node, offset: Array, scales: Scales) -> None:
        steps = np.broadcast_to(scales, offset.shape).copy()
        node.replace_input_with(_BIAS, self._stored(f"{node.name}__bias", quantise_bias(offset, steps), steps, 0))

    def _stored(
        self,
        name: str,
        integers: Array,
        scales: Scales,
        axis: int,
        zero_point: Array | None = None,
    ) -> ir.Value:
        """An integer initializer behind a DequantizeLinear."""
        zeros = np.zeros(scales.shape, integers.dtype) if zero_point is None else zero_point
        inputs = [
            set_initializer(self._graph, f"{name}__quantized", integers),
            set_initializer(self._graph, f"{name}__scale", scales),
            set_initializer(self._graph, f"{name}__zero_point", zeros),
        ]
        node = ir.node(
            "DequantizeLinear", inputs, {"axis": axis} if scales.ndim else {}, name=f"{name}__DequantizeLinear"
        )
        return self._added(node, f"{name}__dequantized", ir.DataType.FLOAT)

    def _constant_operands(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or array is None or value.name not in self._placement.constants:
                continue
            affine = activation_affine(float(array.min()), float(array.max()), self._scheme)
            scale = np.array(affine.scale, np.float32)
            stored = self._stored(f"{node.name}__{index}", quantise(array, affine), scale, 0, affine.zero)
            node.replace_input_with(index, stored)

    def _drop(self, clamp: ir.Node) -> None:
        """Removes a folded Relu or Clip; its input takes its output's place and name."""
        source, output = clamp.inputs[0], clamp.outputs[0]
        assert source is not None
        name = output.name
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        self._graph.remove(clamp, safe=True)
        source.name = name

    def _activation(self, value: ir.Value) -> None:
        """Quantises one activation and points its readers at the integers or at their float reading."""
        name = str(value.name)
        maker = value.producer()
        readers = [*value.uses()]
        int8_made = name in self._placement.produced
        output = int8_made and value.is_graph_output()
        constants = self._scale_and_zero(self._placement.roots[name])
        if maker is not None and maker.name in self._placement.moved:
            integers = value
            value.name = f"{name}__quantized"
            value.type = ir.TensorType(self._integer_type)
        else:
            if output:
                value.name = f"{name}__float"
            node = ir.node("QuantizeLinear", [value, *constants], name=f"{name}__QuantizeLinear")
            integers = self._added(node, f"{name}__quantized", self._integer_type)
            integers.shape = value.shape
        back: ir.Value | None = None
        for reader, index in readers:
            if reader.name in self._placement.moved and reader.graph is self._graph and index == 0:
                reader.replace_input_with(0, integers)
                self._pad_value(reader, constants[1])
            elif int8_made and self._stays_float(reader, index):
                reader.replace_input_with(0, read_by_channel(self._graph, reader, integers, constants))
            elif int8_made or (reader.graph is self._graph and (reader.name, index) in self._placement.reads):
                back = back or self._back(name, integers, constants, output=output)
                reader.replace_input_with(index, back)
        if output:
            back = back or self._back(name, integers, constants, output=output)
            back.shape = value.shape
            outputs = self._graph.outputs
            outputs[outputs.index(value)] = back

    @property
    def _integer_type(self) -> ir.DataType:
        return ir.DataType[self._scheme.activation_dtype.upper()]

    def _back(self, name: str, integers: ir.Value, constants: tuple[ir.Value, ...], *, output: bool) -> ir.Value:
        node = ir.node("DequantizeLinear", [integers, *constants], name=f"{name}__DequantizeLinear")
        return self._added(node, name if output else f"{name}__dequantized", ir.DataType.FLOAT)

    def _stays_float(self, reader: ir.Node, index: int) -> bool:
        """Whether a layer was left in float that ONNX Runtime would round."""
        kept = reader.name not in self._placement.int8 and reader.graph is self._graph
        return index == 0 and kept and self._scheme.style == "operators" and channels_read(reader) > 1

    def _pad_value(self, node: ir.Node, zero_point: ir.Value) -> None:
        """Padding with the real number zero is padding with the zero point."""
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
        if node.op_type == "Pad" and mode == "constant":
            node.resize_inputs(max(len(node.inputs), 3))
            node.replace_input_with(2, zero_point)

    def _scale_and_zero(self, root: str) -> tuple[ir.Value, ...]:
        if root not in self._constants:
            affine = self._affine[root]
            self._constants[root] = (
                set_initializer(self._graph, f"{root}__scale", np.array(affine.scale, np.float32)),
                set_initializer(self._graph, f"{root}__zero_point", affine.zero),
            )
        return self._constants[root]

    def _added(self, node: ir.Node, name: str, dtype: ir.DataType) -> ir.Value:
        """Adds a node to the graph (order is settled at the end); its output, named."""
        self._graph.append(node)
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(dtype)
        return node.outputs[0]


def snr_db(reference: Array, other: Array) -> float:
    """Signal-to-noise ratio in dB, within ±200: 200 where there is no noise, -200 where there is nothing but noise."""
    exact = reference.astype(np.float64)
    signal, noise = float(np.sum(exact**2)), float(np.sum((other.astype(np.float64) - exact) ** 2))
    if noise == 0.0 or signal == 0.0:
        return 200.0 if noise == 0.0 else -200.0
    return round(min(max(10.0 * math.log10(signal / noise), -200.0), 200.0), 3)
