"""Placement in style ``inputs``: Q/DQ only in front of what reads integers, as TensorRT joins layers by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.placed import Placement
from calibration.prepare import constant, main_nodes
from calibration.rules_reasons import ON_REQUEST, float_reason
from calibration.rules_weights import is_float32, is_product, weight_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from targets.scheme import QuantScheme


def place_inputs(graph: ir.Graph, scheme: QuantScheme, float_nodes: frozenset[str]) -> Placement:
    """Q/DQ on the activation and the weight of each compute node, on pool inputs and on the other branch of sums."""
    weights: dict[str, tuple[str, int]] = {}
    reasons: dict[str, str] = {}
    reads: dict[tuple[str, int], ir.Value] = {}
    nodes = [*main_nodes(graph)]
    order = {str(node.name): index for index, node in enumerate(nodes)}
    for node in nodes:
        found = ON_REQUEST if node.name in float_nodes else _read_of(node, scheme, weights, order)
        if isinstance(found, str):
            reasons[str(node.name)] = found
            continue
        value = node.inputs[found]
        assert value is not None
        reads[str(node.name), found] = value
    quantised = {str(value.name): value for value in reads.values()}
    return Placement(
        roots=_concat_groups(nodes, quantised),
        weights=weights,
        constants=frozenset(),
        folded=frozenset(),
        caps={},
        fixed={},
        moved=frozenset(),
        int8=frozenset(str(node.name) for node in nodes if str(node.name) not in reasons),
        reads=frozenset(reads),
        produced=frozenset(),
        reasons=reasons,
    )


def _read_of(
    node: ir.Node, scheme: QuantScheme, weights: dict[str, tuple[str, int]], order: Mapping[str, int]
) -> int | str:
    """Which input of the node gets Q/DQ, or why none; notes the weight of a compute node."""
    op = node.op_type
    if op in scheme.compute_operators and not is_product(node):
        found = weight_of(node, integer_bias=scheme.bias == "int32")
        if isinstance(found, str):
            return found
        weights[str(node.name)] = found
        return 0
    if op in scheme.follow_operators and is_float32(node.inputs[0]) and constant(node.inputs[0]) is None:
        return 0
    if op in scheme.skip_operators:
        return _other_branch(node, scheme, weights, order)
    return float_reason(op, scheme)


def _other_branch(
    node: ir.Node, scheme: QuantScheme, weights: Mapping[str, tuple[str, int]], order: Mapping[str, int]
) -> int | str:
    """The branch of a sum that is not the convolution joined to it: of two convolutions, the later one is joined."""
    values = node.inputs
    if any(not is_float32(value) or constant(value) is not None for value in values):
        return "one of its inputs is a constant or not float32"
    joined: dict[int, int] = {}  # position of the convolution in the graph -> input index
    for index, value in enumerate(values):
        maker = value.producer() if value is not None else None
        if value is None or maker is None or maker.op_type != "Conv" or maker.name not in weights:
            continue
        if len(value.uses()) == 1 and not value.is_graph_output():
            joined[order[str(maker.name)]] = index
    if not joined:
        return float_reason(node.op_type, scheme)
    first, second = values
    if first is None or second is None or first.shape is None or first.shape != second.shape:
        return "its branches are not known to have one shape"
    return 1 - joined[max(joined)]


def _concat_groups(nodes: Sequence[ir.Node], quantised: Mapping[str, ir.Value]) -> dict[str, str]:
    """All quantised tensors that meet in a Concat share one scale, so that it joins integers."""
    root = {name: name for name in quantised}
    for node in nodes:
        if node.op_type != "Concat":
            continue
        names = [str(value.name) for value in (*node.inputs, *node.outputs) if value is not None]
        shared = [root[name] for name in names if name in root]
        for name, old in root.items():
            if old in shared:
                root[name] = shared[0]
    return root
