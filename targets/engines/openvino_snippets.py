"""Shapes of graphs that OpenVINO's own compiler crashes at or gets wrong, found before it is asked to compile them.

OpenVINO 2026.4.1 joins dense layers of two-dimensional activations that follow each other into one generated kernel
(``snippets``). Where the result of two or more of them is added to, or multiplied with, another activation, compiling
for a CPU ends in a segmentation fault (seen with AVX2; float; bias on each layer; up to 256 wide). Without snippets it
compiles and computes. Where such layers read integers, the kernel compiles and gives numbers without meaning for small
batches (seen with AVX-512: no bias, or a scale for each channel read). So engines of such graphs say that snippets are
off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.onnxfile import ranks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

_JOINS: Final = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"})
_DENSE: Final = frozenset({"Gemm", "MatMul"})
_TWO: Final = 2


def joins_of_dense_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes at which two dense layers in a row meet another activation; more rather than fewer.

    Args:
        model: An opened model; its weights may lie outside.
    """
    return tuple(
        _name(node)
        for node, read, behind, _ in _runs(model)
        if len(read) > 1 and node.op_type in _JOINS and behind >= _TWO
    )


def dense_layers_of_integers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the dense layers that follow another one in a model with Q/DQ; more rather than fewer.

    Args:
        model: An opened model; its weights may lie outside.
    """
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return ()
    return tuple(_name(node) for node, _, behind, dense in _runs(model) if dense and behind + 1 >= _TWO)


def _runs(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, list[str], int, bool]]:
    """Nodes in order: what they read, how many dense layers of two dimensions lie behind it, whether they are one."""
    graph = model.graph
    if sum(node.op_type in _DENSE for node in graph.node) < _TWO:
        return
    constants = {tensor.name for tensor in graph.initializer}
    ranks = ranks_of(model)
    run: dict[str, int] = {}
    for node in graph.node:  # in the order of execution
        read = [name for name in node.input if name and name not in constants]
        if not read:  # a Constant, or an integer weight behind its DequantizeLinear
            constants.update(node.output)
            continue
        behind = max(run.get(name, 0) for name in read)
        dense = len(read) == 1 and (
            node.op_type == "Gemm" or (node.op_type == "MatMul" and ranks.get(node.output[0]) == _TWO)
        )
        if len(read) == 1:
            for name in node.output:
                run[name] = behind + dense
        yield node, read, behind, dense


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
