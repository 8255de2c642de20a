"""Dynamic int8: weights as int8, activations quantised while the model runs, by the range they have just then.

For recurrent and transformer nets: no calibration, outputs stay float32, and each layer is read and written in float.
A product with a constant weight becomes DynamicQuantizeLinear and MatMulInteger (which ONNX Runtime joins to one
operator), an LSTM becomes DynamicQuantizeLSTM. Convolutions stay float: ConvInteger is slower than Conv there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.formats import CONTRIB, FormatReport, finish, open_prepared, put, size_bytes, take_place, use_contrib
from calibration.numerics import weight_scales
from calibration.pairs import PAIRED_BITS, WIDE, paired_scales
from calibration.prepare import constant, main_nodes, set_initializer
from calibration.qdq import snr_db
from calibration.rules_weights import int_attribute, is_float32, weight_of
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

Array = NDArray[np.generic]

MIN_ELEMENTS: Final = 16_384
"""Smaller weights stay float: finding the range of the input costs more than the product."""

_BIAS: Final = 2
_LSTM_INPUTS: Final = 8  # X, W, R, B, sequence_lens, initial_h, initial_c, P
_REASONS: Final = {
    "GRU": "ONNX Runtime has no dynamic int8 GRU",
    "RNN": "ONNX Runtime has no dynamic int8 RNN",
    "Conv": "ConvInteger is slower than the float convolution: quantise it statically",
    "ConvTranspose": "there is no integer transposed convolution",
}


def quantize_dynamic_model(
    source: Path | onnx.ModelProto, out_path: Path, *, min_elements: int = MIN_ELEMENTS, weight_bits: int = 8
) -> FormatReport:
    """Writes the model with dynamic int8 for matrix products and LSTMs; the same arguments give the same bytes.

    Args:
        source: The float model.
        out_path: The file to write.
        min_elements: Weights with fewer elements stay float.
        weight_bits: 8, or 7 where pairs of products must fit 16 bits (x86 without VNNI).

    Raises:
        InputError: The model is quantised already, no node of it has a dynamic int8 form, or ``weight_bits`` is
            neither 7 nor 8.
    """
    if weight_bits not in {7, 8}:
        raise InputError(
            f"weights of {weight_bits} bits were asked for", "dynamic int8 has 7 or 8", "use 8, or 7 on AVX2"
        )
    model = open_prepared(source)
    before = size_bytes(model)
    writer = _Writer(model, min_elements=min_elements, bits=weight_bits)
    for node in [*main_nodes(model.graph)]:
        writer.look_at(node)
    return finish(
        model,
        out_path,
        what="run in dynamic int8",
        fix="take this format out of quantize.formats: int8 itself is for convolutions and small layers",
        changed=writer.changed,
        left=writer.left,
        before_bytes=before,
        snr_db=writer.snr_db,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    integers: ir.Value
    scales: ir.Value
    snr_db: float


@final
class _Writer:
    def __init__(self, model: ir.Model, *, min_elements: int, bits: int) -> None:
        self._model, self._graph = model, model.graph
        self._min_elements, self._bits = min_elements, bits
        self._stored: dict[tuple[str, int], _Stored] = {}
        self._inputs: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.changed: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.snr_db: dict[str, float] = {}

    def look_at(self, node: ir.Node) -> None:
        name = str(node.name)
        if node.domain not in {"", "ai.onnx"}:
            return
        if node.op_type in {"MatMul", "Gemm"}:
            reason = self._product(node)
        elif node.op_type == "LSTM":
            reason = self._lstm(node)
        else:
            reason = _REASONS.get(node.op_type, "")
        if reason:
            self.left[name] = reason

    def _product(self, node: ir.Node) -> str:
        """MatMul or Gemm: integers times integers, then scaled, plus bias. Why not, where it stays."""
        found = weight_of(node, integer_bias=False)
        if isinstance(found, str):
            return found
        name, source, weight = str(node.name), node.inputs[0], node.inputs[1]
        assert source is not None
        assert weight is not None
        array = np.asarray(constant(weight), np.float32)
        if array.size < self._min_elements:
            return f"its weight has fewer than {self._min_elements} elements"
        transposed = node.op_type == "Gemm" and int_attribute(node, "transB", 0) == 1
        stored = self._weight(str(weight.name), array.T if transposed else array, 1)
        integers, scale, zero = self._quantised(source, node)
        graph, out = self._graph, str(node.outputs[0].name)
        product = ir.node("MatMulInteger", [integers, stored.integers, zero], name=name)
        sums = put(graph, node, product, f"{out}__sums", ir.DataType.INT32)
        cast = ir.node("Cast", [sums], {"to": int(ir.DataType.FLOAT)}, name=f"{name}__Cast")
        counted = put(graph, node, cast, f"{out}__counted", ir.DataType.FLOAT)
        steps = ir.node("Mul", [scale, stored.scales], name=f"{name}__steps")
        step = put(graph, node, steps, f"{out}__step", ir.DataType.FLOAT)
        last = ir.node("Mul", [counted, step], name=f"{name}__scaled")
        bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
        if bias is not None:
            scaled = put(graph, node, last, f"{out}__scaled", ir.DataType.FLOAT)
            last = ir.node("Add", [scaled, bias], name=f"{name}__bias")
        graph.insert_before(node, last)
        take_place(graph, node, last)
        self.changed[name], self.snr_db[name] = "MatMulInteger", stored.snr_db
        return ""

    def _lstm(self, node: ir.Node) -> str:
        """LSTM: the weights transposed, one scale for each gate row. Why not, where it stays."""
        inputs = [*node.inputs, *[None] * (_LSTM_INPUTS - len(node.inputs))]
        arrays = [constant(inputs[1]), constant(inputs[2])]
        if any(array is None or array.dtype != np.float32 for array in arrays) or not is_float32(inputs[0]):
            return "its weights are not constants of float32"
        if int_attribute(node, "layout", 0) != 0:
            return "DynamicQuantizeLSTM takes (time, batch, features) only, layout 0"
        if sum(array.size for array in arrays if array is not None) < self._min_elements:
            return f"its weights have fewer than {self._min_elements} elements"
        name, parts, noise = str(node.name), [], []
        for value, array in zip(inputs[1:3], arrays, strict=True):
            assert value is not None
            assert array is not None
            stored = self._weight(str(value.name), np.swapaxes(np.asarray(array, np.float32), 1, 2), 2)
            zero = set_initializer(
                self._graph, f"{value.name}__zero_point", np.zeros(np.asarray(constant(stored.scales)).shape, np.int8)
            )
            parts.append((stored.integers, stored.scales, zero))
            noise.append(stored.snr_db)
        (w, w_scale, w_zero), (r, r_scale, r_zero) = parts
        attributes = {key: value for key, value in node.attributes.items() if key != "layout"}
        new = ir.node(
            "DynamicQuantizeLSTM",
            [inputs[0], w, r, *inputs[3:], w_scale, w_zero, r_scale, r_zero],
            domain=CONTRIB,
            num_outputs=len(node.outputs),
            name=name,
        )
        for attribute in attributes.values():
            new.attributes.add(attribute)
        self._graph.insert_before(node, new)
        take_place(self._graph, node, new)
        use_contrib(self._model)
        self.changed[name], self.snr_db[name] = "DynamicQuantizeLSTM", min(noise)
        return ""

    def _weight(self, name: str, array: NDArray[np.float32], axis: int) -> _Stored:
        """Integers and scales of a weight: (K, N) one scale for each of N, (D, K, N) one for each of D x N."""
        key = (name, axis if array.flags.c_contiguous else -axis)
        if key not in self._stored:
            directions = array if array.ndim == axis + 1 and axis > 1 else array[None]
            paired = self._bits == PAIRED_BITS and axis == 1  # an LSTM's kernels pair otherwise
            fitted = [paired_scales(part, 1, 1) if paired else None for part in directions]
            scales = np.stack(
                [
                    weight_scales(part, 1, self._bits, None, 1.0, smallest=smallest)
                    for part, smallest in zip(directions, fitted, strict=True)
                ]
            )
            limit = WIDE if paired else 2 ** (self._bits - 1) - 1
            integers = np.clip(np.rint(directions / scales[:, None, :]), -limit, limit).astype(np.int8)
            noise = snr_db(directions, integers * scales[:, None, :])
            single = directions is not array
            self._stored[key] = _Stored(
                integers=set_initializer(self._graph, f"{name}__quantized", integers[0] if single else integers),
                scales=set_initializer(self._graph, f"{name}__scale", scales[0] if single else scales),
                snr_db=noise,
            )
        return self._stored[key]

    def _quantised(self, source: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The integers, scale and zero point of an activation; several products share them."""
        name = str(source.name)
        if name not in self._inputs:
            made = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{name}__DynamicQuantizeLinear")
            self._graph.insert_before(node, made)
            types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            for value, part, dtype in zip(made.outputs, ("quantized", "scale", "zero_point"), types, strict=True):
                value.name, value.type = f"{name}__{part}", ir.TensorType(dtype)
            self._inputs[name] = (made.outputs[0], made.outputs[1], made.outputs[2])
        return self._inputs[name]
