"""Why operators stay float, by dialect: what the reports say; measured with ONNX Runtime 1.32 and TensorRT-RTX 1.7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from targets.scheme import QuantScheme

ON_REQUEST: Final = "it is kept in float on request"

MASKED: Final = "it carries a mask of -inf, which no integer holds"

_NONE: Final = "the runtime has no integer {op}"
_SLOWER: Final = "an integer {op} is no faster than a float one"
_FUSED: Final = "TensorRT joins it to the layer before or carries Q over it: it needs no Q/DQ"

_OPERATORS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        {"ConvTranspose", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Selu", "Softplus", "Softsign", "Mish", "Gelu"}
        | {"Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Abs", "Neg", "Sub", "Div", "Max", "Min", "PRelu", "Where"}
        | {"ReduceMean", "ReduceSum", "ReduceMin", "LpPool", "GlobalMaxPool", "LSTM", "GRU", "RNN", "Einsum"},
        _NONE,
    ),
    "AveragePool": "an integer AveragePool is slower than a float one",
    "MatMul": "it multiplies two activations: " + _SLOWER,
    "Softmax": "probabilities need more than 256 levels",
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "BatchNormalization"),
        "a normalisation needs float range",
    ),
    **dict.fromkeys(("If", "Loop", "Scan"), "bodies of {op} stay float"),
}
_INPUTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Mul", "MaxPool", "AveragePool"}
        | {"Concat", "Split", "Slice", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Resize"},
        _FUSED,
    ),
    "Add": "no branch of it comes straight from a convolution: it stays float",
    "MatMul": "it multiplies two activations: TensorRT fuses attention in float",
    **{op: _OPERATORS[op] for op in ("If", "Loop", "Scan", "Softmax", "LayerNormalization")},
}
_BETWEEN: Final[Mapping[str, str]] = {
    "MatMul": "it multiplies two activations: QNN has no product of two tensors of 16 bits",
    **{op: _OPERATORS[op] for op in ("If", "Loop", "Scan")},
}


def float_reason(op: str, scheme: QuantScheme) -> str:
    """Why nodes of that operator stay float in that dialect."""
    known = _INPUTS if scheme.style == "inputs" else _OPERATORS if scheme.moves == "integers" else _BETWEEN
    return known.get(op, "{op} is float here").format(op=op)
