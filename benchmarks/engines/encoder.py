"""A transformer encoder of BERT-base's work as ONNX: 12 layers of width 768, 85 million weights, 340 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

_LAYERS: Final = 12
_WIDTH, _HEADS, _TOKENS = 768, 12, 128


class _Graph:
    """Nodes and weights as they come; each weight in float32, drawn from one seed."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """A node; the name of its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [name], name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """An initializer; its name."""
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """Product with a weight, plus a bias."""
        weight = self._random.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5)
        product = self.add("MatMul", x, self.constant(weight))
        return self.add("Add", product, self.constant(np.zeros(outputs, np.float32)))

    def norm(self, x: str) -> str:
        """Layer normalisation over the last axis."""
        scale, bias = np.ones(_WIDTH, np.float32), np.zeros(_WIDTH, np.float32)
        return self.add("LayerNormalization", x, self.constant(scale), self.constant(bias), axis=-1)

    def heads(self, x: str, order: tuple[int, ...]) -> str:
        """(N, T, C) to heads, in the given order of axes."""
        shape = self.constant(np.array([0, _TOKENS, _HEADS, _WIDTH // _HEADS], np.int64))
        return self.add("Transpose", self.add("Reshape", x, shape), perm=[*order])


def write_encoder(path: Path) -> None:
    """Writes it for an input ``x`` of (batch, 128, 768)."""
    graph, x = _Graph(), "x"
    for _ in range(_LAYERS):
        x = graph.norm(graph.add("Add", x, _attention(graph, x)))
        wide = graph.add("Relu", graph.linear(x, _WIDTH, 4 * _WIDTH))
        x = graph.norm(graph.add("Add", x, graph.linear(wide, 4 * _WIDTH, _WIDTH)))
    shape = ["batch", _TOKENS, _WIDTH]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", x)]
    made = helper.make_graph(graph.nodes, "encoder", ports[:1], ports[1:], graph.weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


def _attention(graph: _Graph, x: str) -> str:
    query, key, value = (graph.linear(x, _WIDTH, _WIDTH) for _ in range(3))
    query, value = graph.heads(query, (0, 2, 1, 3)), graph.heads(value, (0, 2, 1, 3))
    scores = graph.add("MatMul", query, graph.heads(key, (0, 2, 3, 1)))
    scale = graph.constant(np.array((_WIDTH // _HEADS) ** -0.5, np.float32))
    mixed = graph.add("MatMul", graph.add("Softmax", graph.add("Mul", scores, scale), axis=-1), value)
    shape = graph.constant(np.array([0, _TOKENS, _WIDTH], np.int64))
    joined = graph.add("Reshape", graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), shape)
    return graph.linear(joined, _WIDTH, _WIDTH)
