"""Whether a model can gain from a format beside static int8, judged by its operators and weights alone: cheap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from targets.onnxfile import open_stored

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

DYNAMIC_ELEMENTS: Final = 16_384
"""As `calibration.dynamic.MIN_ELEMENTS`, which is not imported: it would take longer than the look at the model."""

BLOCK_ELEMENTS: Final = 65_536
"""As `calibration.weightonly.MIN_ELEMENTS`."""

LARGE_LINEAR: Final = 1_000_000
"""Weights in large linear layers from which on reading them is most of an inference of one sample."""

_PRODUCTS: Final = frozenset({"MatMul", "Gemm"})
_SAME_VALUES: Final = frozenset({"Transpose", "Identity", "Reshape", "Cast", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Makeup:
    """What a model is made of, in elements of constants.

    Attributes:
        weights: All constants.
        products: Weights of matrix products, one for each.
        lstm: Weights of LSTM layers.
        attention: Products of two activations.
    """

    weights: int
    products: tuple[int, ...]
    lstm: int
    attention: int


def nothing_to_gain(model: Path, precision: str) -> str:
    """Why ``precision`` has nothing to offer for the float model; empty when it is worth building and measuring.

    Raises:
        InputError: The file is no ONNX model.
    """
    if precision in {"fp16", "bf16"}:  # whether the hardware computes in it is all that matters
        return ""
    found = makeup(open_stored(model).model)
    return _dynamic(found) if precision == "int8-dynamic" else _weights(found)


def makeup(model: onnx.ModelProto) -> Makeup:
    """What the model's main graph is made of."""
    graph = model.graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            sizes[node.output[0]] = sum(math.prod(a.t.dims) for a in node.attribute if a.name == "value")
    weights, products, lstm, attention = sum(sizes.values()), [], 0, 0
    for node in graph.node:  # in the order of execution
        if node.op_type in _SAME_VALUES and node.input and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
        elif node.op_type == "LSTM":
            lstm += sum(sizes.get(name, 0) for name in node.input[1:3])
        elif node.op_type in _PRODUCTS:
            constant = next((sizes[name] for name in node.input[:2] if name in sizes), None)
            attention += constant is None
            products += [] if constant is None else [constant]
    return Makeup(weights=weights, products=tuple(products), lstm=lstm, attention=attention)


def _dynamic(found: Makeup) -> str:
    """Recurrent nets, and transformers; of all others static int8 is the faster one."""
    if found.lstm >= DYNAMIC_ELEMENTS:
        return ""
    large = sum(size for size in found.products if size >= DYNAMIC_ELEMENTS)
    if found.attention and large and 2 * large >= found.weights:
        return ""
    return "the model is neither recurrent nor a transformer: static int8 is faster there"


def _weights(found: Makeup) -> str:
    """Models whose time goes into reading the weights of large linear layers."""
    large = sum(size for size in found.products if size >= BLOCK_ELEMENTS)
    if large < LARGE_LINEAR or 2 * large < found.weights:
        share = f"{large:,} of {found.weights:,} weights are in linear layers of at least {BLOCK_ELEMENTS:,}"
        return f"{share}; from {LARGE_LINEAR:,}, and half of all, it pays"
    return ""
