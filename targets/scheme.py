"""What an engine wants from a quantised graph, as data: one `QuantScheme` per dialect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPSET_OF_CHANNELS: Final = 13  # one scale a channel: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
_OPSET_OF_16_BITS: Final = 21  # the same page: int16 and uint16


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantScheme:
    """One dialect of explicit Q/DQ.

    Attributes:
        name: The dialect's name, as profiles write it.
        activation_dtype: Integer type of activations; ``uint16`` (65,536 levels) needs opset 21.
        activation_symmetric: True puts the activations' zero point at 0.
        weight_bits: 8, or 7 where the CPU adds products in pairs of 16 bits (AVX2 and AVX-512 without VNNI): weights of
            7 bits, and up to 8 where their neighbours leave room (`calibration.pairs`).
        per_channel_weights: One scale per output channel.
        per_tensor_operators: Operators whose weight has a single scale even so.
        bias: ``int32`` writes biases as int32 with scale s_x * s_w; ``float`` leaves them.
        style: ``operators``: Q/DQ around every operator, so that it becomes an integer operator with integer output;
            ``inputs``: Q/DQ only where an operator reads integers, outputs stay float and the engine joins the rest.
        fold_relu: Drop a Relu or Clip whose effect the output's quantised range already has.
        quantize_graph_output: Put Q/DQ on the graph output, so that the last Gemm fuses too.
        compute_operators: Operators that are quantised for speed (their weights become int8).
        follow_operators: Operators that run in int8 with own output range when all their inputs are quantised; in
            style ``inputs``: operators without weight whose input gets Q/DQ.
        same_scale_operators: Operators that only move or pick values: their output has their input's scale.
        moves: ``integers``: these operators read and write the integers; ``between``: they stand between Q/DQ, for an
            engine that knows a quantised operator by the Q/DQ around it.
        fixed_ranges: (operator, (low, high)): what its output is quantised to, whatever was measured.
        skip_operators: Style ``inputs``: sums that join the convolution before them; the other branch gets Q/DQ.
        activation_products: True makes the MatMul of two activations an integer operator too.
        sums_of_series: ``in 4-d`` gives means and sums over quantised tensors of three dimensions a fourth, for an
            engine that gets those of three wrong (`calibration.series`).
    """

    name: str
    activation_dtype: Literal["uint8", "int8", "uint16"]
    activation_symmetric: bool
    weight_bits: Literal[7, 8]
    per_channel_weights: bool
    per_tensor_operators: frozenset[str]
    bias: Literal["int32", "float"]
    style: Literal["operators", "inputs"]
    fold_relu: bool
    quantize_graph_output: bool
    compute_operators: frozenset[str]
    follow_operators: frozenset[str]
    same_scale_operators: frozenset[str]
    skip_operators: frozenset[str]
    activation_products: bool
    moves: Literal["integers", "between"]
    fixed_ranges: frozenset[tuple[str, tuple[float, float]]]
    sums_of_series: Literal["as they are", "in 4-d"] = "as they are"

    @property
    def activation_bits(self) -> int:
        """Bits of an activation."""
        return 16 if self.activation_dtype == "uint16" else 8

    def by_channel(self, op: str) -> bool:
        """Whether weights of that operator have one scale per output channel."""
        return self.per_channel_weights and op not in self.per_tensor_operators

    @property
    def opset(self) -> int:
        """The lowest opset of ONNX whose Q/DQ the dialect can be written in."""
        return _OPSET_OF_16_BITS if self.activation_bits == 16 else _OPSET_OF_CHANNELS  # noqa: PLR2004 - bits


# Measured with ONNX Runtime 1.32, x86-64 with VNNI, 1 thread: QLinearAveragePool takes 1.2 to 2.2 times the time of the
# float pool, QLinearMatMul of two activations is equal at best: both are left out though they fuse. Moves on integers
# take half the time of float ones. What is named nowhere here (HardSwish, ConvTranspose, Sub, Max, ...) does not fuse.
_ORT_X86: Final = QuantScheme(
    name="ort-x86",
    activation_dtype="uint8",
    activation_symmetric=False,
    weight_bits=8,
    per_channel_weights=True,
    per_tensor_operators=frozenset(),
    bias="int32",
    style="operators",
    fold_relu=True,
    quantize_graph_output=True,
    compute_operators=frozenset({"Conv", "Gemm", "MatMul"}),
    follow_operators=frozenset({"Add", "Mul", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Concat"}),
    same_scale_operators=frozenset(
        {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Pad"}
        | {"Split", "Gather", "Expand", "Tile", "Resize", "DepthToSpace", "SpaceToDepth", "ReduceMax"}
    ),
    skip_operators=frozenset(),
    activation_products=False,
    moves="integers",
    fixed_ranges=frozenset(),
)

# TensorRT: symmetric, float bias, Q before the convolution and none behind it: the engine carries Q over Relu, pools
# and moves, and joins convolution, sum and Relu when only the other branch of the sum is quantised.
_TRT: Final = QuantScheme(
    name="trt",
    activation_dtype="int8",
    activation_symmetric=True,
    weight_bits=8,
    per_channel_weights=True,
    per_tensor_operators=frozenset(),
    bias="float",
    style="inputs",
    fold_relu=False,
    quantize_graph_output=False,
    compute_operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    follow_operators=frozenset({"GlobalAveragePool"}),
    same_scale_operators=frozenset(),
    skip_operators=frozenset({"Add"}),
    activation_products=False,
    moves="integers",
    fixed_ranges=frozenset(),
)

# Qualcomm's NPU (QNN's HTP backend): 16-bit activations, 8-bit weights. From documents alone: it never ran on one.
# https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html: uint16 activations; the list of operators;
#   MatMul of (uint16, uint8) and of no two uint16 tensors.
# onnxruntime.quantization.execution_providers.qnn.get_qnn_qdq_config (1.32): Q/DQ around every operator, asymmetric
#   activations, weights symmetric where signed, one scale a channel for Conv and ConvTranspose and for no MatMul; of
#   16-bit Sigmoid and Tanh exactly the scales 1/65536 and 1/32768; clamps from zero left to the range.
# github.com/onnxruntime/onnxruntime-qnn, tests of the HTP backend: Conv and ConvTranspose of uint16, int8 weights by
#   channel and int32 bias (U16S8S32_PerChannel), MatMul of uint16 and int8, with ONNX's own Q/DQ of opset 21.
_QNN_A16: Final = replace(
    _ORT_X86,
    name="qnn-a16",
    activation_dtype="uint16",
    per_tensor_operators=frozenset({"Gemm", "MatMul"}),
    compute_operators=_ORT_X86.compute_operators | {"ConvTranspose"},
    follow_operators=_ORT_X86.follow_operators | {"Sub", "AveragePool", "HardSwish", "HardSigmoid", "Tanh"},
    moves="between",
    fixed_ranges=frozenset({("Sigmoid", (0.0, 1.0 - 2.0**-16)), ("Tanh", (-1.0, 1.0 - 2.0**-15))}),
)

SCHEMES: Final[Mapping[str, QuantScheme]] = {
    scheme.name: scheme
    for scheme in (
        _ORT_X86,
        replace(_ORT_X86, name="ort-x86-avx2", weight_bits=7),
        replace(_ORT_X86, name="ort-arm64"),
        replace(_ORT_X86, name="openvino", sums_of_series="in 4-d"),
        _TRT,
        _QNN_A16,
    )
}


def scheme(name: str) -> QuantScheme:
    """The scheme of that name.

    Raises:
        InputError: There is none.
    """
    try:
        return SCHEMES[name]
    except KeyError:
        raise InputError(
            f"no quantisation scheme is called {name!r}", "profiles may use only known dialects", nearest(name, SCHEMES)
        ) from None
