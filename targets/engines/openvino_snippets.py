"""A shape of graph at which OpenVINO's own compiler crashes, found before it is asked to compile it.

OpenVINO 2026.4.1 joins dense layers of two-dimensional activations that follow each other into one generated kernel
(``snippets``). Where the result of two or more of them is added to, or multiplied with, another activation, compiling
for a CPU ends in a segmentation fault (seen with AVX2; float; bias on each layer; up to 256 wide). Without snippets it
compiles and computes. So engines of such graphs say that snippets are off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

_JOINS: Final = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"})
_DENSE: Final = frozenset({"Gemm", "MatMul"})
_TWO: Final = 2


def joins_of_dense_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes at which two dense layers in a row meet another activation; more rather than fewer.

    Args:
        model: An opened model; its weights may lie outside.
    """
    import onnx

    graph = model.graph
    if sum(node.op_type in _DENSE for node in graph.node) < _TWO:
        return ()
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    ranks = _ranks(onnx.shape_inference.infer_shapes(model))
    run: dict[str, int] = {}  # how many dense layers, of two dimensions, lie behind a tensor
    found = []
    for node in graph.node:  # in the order of execution
        read = [name for name in node.input if name and name not in constants]
        behind = max((run.get(name, 0) for name in read), default=0)
        if len(read) == 1:
            dense = node.op_type == "Gemm" or (node.op_type == "MatMul" and ranks.get(node.output[0]) == _TWO)
            for name in node.output:
                run[name] = behind + dense
        elif node.op_type in _JOINS and behind >= _TWO:
            found.append(node.name or node.output[0])
    return tuple(found)


def _ranks(model: onnx.ModelProto) -> Mapping[str, int]:
    values = (*model.graph.value_info, *model.graph.output)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
