"""Names of the operators that multiply and accumulate, as ONNX and ONNX Runtime's optimiser call them."""

from __future__ import annotations

from typing import Final

CONVOLUTIONS: Final = frozenset({
    "Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv", "ConvTranspose", "QLinearConvTranspose",
})  # fmt: skip
PRODUCTS: Final = frozenset({
    "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "MatMulNBits",
})  # fmt: skip
RECURRENT: Final = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
COMPUTE: Final = CONVOLUTIONS | PRODUCTS | RECURRENT
"""Operators that multiply and accumulate."""

WEIGHT_INPUT: Final = {"QLinearConv": 3, "QLinearConvTranspose": 3, "QLinearMatMul": 3, "QGemm": 3}
"""Which input the weight is; the second one for all others."""
