"""Placement in style ``operators``: whole chains of integer operators, as ONNX Runtime and OpenVINO fuse them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from calibration.placed import Placement
from calibration.prepare import constant, main_nodes
from calibration.rules_reasons import ON_REQUEST, float_reason
from calibration.rules_weights import is_float32, is_product, text_attribute, weight_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_ir as ir

    from targets.scheme import QuantScheme

_CLAMPS: Final = frozenset({"Relu", "Clip"})
_SUMS: Final = frozenset({"Add", "Mul"})
_IDLE: Final = "nothing that reads it runs in int8"


def place_operators(graph: ir.Graph, scheme: QuantScheme, float_nodes: frozenset[str]) -> Placement:
    """Compute nodes read and write integers; what lies between them follows where it can."""
    weights, products, reasons = _compute(graph, scheme, float_nodes)
    fixed = dict(reasons)
    quantised = _spread(graph, scheme, weights, products, reasons, float_nodes)
    idle = _idle_sums(graph, scheme, weights, reasons)
    if idle:
        reasons = fixed | dict.fromkeys(idle, _IDLE)
        quantised = _spread(graph, scheme, weights, products, reasons, float_nodes | idle)
    int8 = frozenset(str(node.name) for node in main_nodes(graph) if str(node.name) not in reasons)
    folded, caps = _fold(graph, scheme, int8, quantised)
    nodes = [node for node in main_nodes(graph) if node.name in int8]
    moved = frozenset(str(node.name) for node in nodes if node.op_type in scheme.same_scale_operators)
    known = dict(scheme.fixed_ranges)
    prescribed = {str(node.outputs[0].name): known[node.op_type] for node in nodes if node.op_type in known}
    return Placement(
        roots=_groups(graph, moved, int8, quantised, _carried(graph, {**caps, **prescribed}, moved)),
        weights=weights,
        constants=frozenset(
            name for node in nodes if node.op_type in scheme.follow_operators for name in _constant_operands(node)
        ),
        folded=folded,
        caps=caps,
        fixed=prescribed,
        moved=moved if scheme.moves == "integers" else frozenset(),
        int8=int8,
        reads=frozenset(
            (str(node.name), index)
            for node in nodes
            for index, value in enumerate(node.inputs)
            if value is not None and value.name in quantised
        ),
        produced=frozenset(str(value.name) for node in nodes for value in node.outputs if value.name in quantised),
        reasons=reasons,
    )


def _compute(
    graph: ir.Graph, scheme: QuantScheme, float_nodes: Collection[str]
) -> tuple[dict[str, tuple[str, int]], frozenset[str], dict[str, str]]:
    """Weights of the compute nodes, products of two activations, and why every other node is float so far."""
    weights: dict[str, tuple[str, int]] = {}
    products: set[str] = set()
    reasons: dict[str, str] = {}
    for node in main_nodes(graph):
        name, op = str(node.name), node.op_type
        if name in float_nodes:
            reasons[name] = ON_REQUEST
        elif op not in scheme.compute_operators or (is_product(node) and not scheme.activation_products):
            reasons[name] = float_reason(op, scheme)
        elif is_product(node):
            products.add(name)
        elif isinstance(found := weight_of(node, integer_bias=scheme.bias == "int32"), str):
            reasons[name] = found
        else:
            weights[name] = found
    return weights, frozenset(products), reasons


def _spread(
    graph: ir.Graph,
    scheme: QuantScheme,
    weights: Mapping[str, tuple[str, int]],
    products: frozenset[str],
    reasons: dict[str, str],
    settled: frozenset[str],
) -> dict[str, ir.Value]:
    """Quantised activations: what compute nodes read and write, then what follows from it."""
    quantised: dict[str, ir.Value] = {}
    for node in main_nodes(graph):
        if node.name in weights or node.name in products:
            for value in node.inputs if node.name in products else node.inputs[:1]:
                _add(quantised, value)
            if scheme.quantize_graph_output or not node.outputs[0].is_graph_output():
                _add(quantised, node.outputs[0])
    follow = scheme.follow_operators | _CLAMPS
    for node in main_nodes(graph):
        name = str(node.name)
        if name in weights or name in products or name in settled:
            continue
        if node.op_type not in follow | scheme.same_scale_operators:
            continue
        why = _follows(node, scheme, quantised)
        if why is None:
            del reasons[name]
            for value in node.outputs:
                _add(quantised, value)
        else:
            reasons[name] = why
    return quantised


def _follows(node: ir.Node, scheme: QuantScheme, quantised: Mapping[str, ir.Value]) -> str | None:
    """None when the node runs in int8 behind its quantised inputs, else why not."""
    output = node.outputs[0]
    if len(node.outputs) != 1 and node.op_type != "Split":
        return "it has several outputs"
    if not is_float32(output) or (output.is_graph_output() and not scheme.quantize_graph_output):
        return "its output is not a quantised float32 tensor"
    return _float_operand(node, scheme, quantised) or _needs_real_numbers(node)


def _float_operand(node: ir.Node, scheme: QuantScheme, quantised: Mapping[str, ir.Value]) -> str | None:
    """Which input keeps the node float, None when all are quantised or, beside quantised ones, constants."""
    moves = node.op_type in scheme.same_scale_operators or node.op_type in _CLAMPS
    operands = node.inputs[:1] if moves else node.inputs
    for value in operands:
        constants = not moves and value is not None and (array := constant(value)) is not None and array.size > 0
        if value is None or (value.name not in quantised and not constants):
            return f"its input {value.name if value is not None else ''!r} is float"
    return "all its inputs are constants" if all(constant(value) is not None for value in operands) else None


def _needs_real_numbers(node: ir.Node) -> str | None:
    """Why a move cannot be done on integers, None when it can."""
    if node.op_type == "Pad" and not _pads_zero(node):
        return "it pads with a value other than zero"
    if node.op_type == "Resize" and not _picks_nearest(node):
        return "only a Resize to the nearest value moves integers"
    return None


def _idle_sums(
    graph: ir.Graph,
    scheme: QuantScheme,
    weights: Mapping[str, tuple[str, int]],
    reasons: Mapping[str, str],
) -> frozenset[str]:
    """Sums and products whose result only float nodes read, also through moves.

    They gain nothing in int8 and would cost a rounding: the residual stream between normalisations, a square inside a
    normalisation, half of a decomposed Gelu.
    """
    passing = scheme.same_scale_operators | _SUMS
    wanted: set[str] = set()
    idle: set[str] = set()
    for node in reversed([*main_nodes(graph)]):
        name = str(node.name)
        if name in reasons:
            continue
        read = any(value.name in wanted or value.is_graph_output() for value in node.outputs)
        if read or node.op_type not in passing:
            first_only = name in weights or node.op_type in scheme.same_scale_operators
            wanted.update(str(value.name) for value in node.inputs[: 1 if first_only else None] if value is not None)
        elif node.op_type in _SUMS:
            idle.add(name)
    return frozenset(idle)


def _fold(
    graph: ir.Graph, scheme: QuantScheme, int8: frozenset[str], quantised: dict[str, ir.Value]
) -> tuple[frozenset[str], dict[str, float]]:
    """Relu and Clip from zero behind an int8 node that feeds nothing else; its raw output is then not quantised."""
    folded: set[str] = set()
    caps: dict[str, float] = {}
    makers = (scheme.compute_operators | scheme.follow_operators).difference(dict(scheme.fixed_ranges))
    for node in main_nodes(graph) if scheme.fold_relu else ():
        source = node.inputs[0] if node.op_type in _CLAMPS and node.name in int8 else None
        maker = source.producer() if source is not None else None
        bounds = _bounds(node) if source is not None else (0.0, 0.0)
        if source is None or maker is None or maker.name not in int8 or maker.op_type not in makers:
            continue
        if bounds[0] != 0.0 or not bounds[1] > 0.0 or len(source.uses()) != 1 or source.is_graph_output():
            continue
        folded.add(str(node.name))
        caps[str(node.outputs[0].name)] = bounds[1]
        del quantised[str(source.name)]
    return frozenset(folded), caps


def _carried(graph: ir.Graph, limits: Mapping[str, object], moved: frozenset[str]) -> dict[str, object]:
    """Activation -> cap or fixed range whose values it carries, through nodes that move or join them."""
    carried = dict(limits)
    for node in main_nodes(graph):
        sources = node.inputs[:1] if node.name in moved else node.inputs if node.op_type == "Concat" else ()
        found = {carried.get(str(value.name)) for value in sources if value is not None}
        if len(found) == 1 and (limit := found.pop()) is not None:
            for value in node.outputs:
                carried.setdefault(str(value.name), limit)
    return carried


def _groups(
    graph: ir.Graph,
    moved: frozenset[str],
    int8: frozenset[str],
    quantised: Mapping[str, ir.Value],
    carried: Mapping[str, object],
) -> dict[str, str]:
    """Scale groups: moving nodes keep the scale; the inputs of a Concat share one unless their limits differ."""
    parent = {name: name for name in quantised}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in main_nodes(graph):
        names = [str(value.name) for value in node.inputs if value is not None and value.name in quantised]
        output = str(node.outputs[0].name)
        if node.name in moved:
            for value in node.outputs:
                parent[root(str(value.name))] = root(names[0])
        elif node.op_type == "Concat" and node.name in int8 and len({carried.get(n) for n in [*names, output]}) == 1:
            for name in names if output not in quantised else [*names, output]:
                parent[root(name)] = root(names[0])
    return {name: root(name) for name in quantised}


def _add(quantised: dict[str, ir.Value], value: ir.Value | None) -> None:
    if value is not None:
        quantised[str(value.name)] = value


def _constant_operands(node: ir.Node) -> list[str]:
    return [str(value.name) for value in node.inputs if value is not None and constant(value) is not None]


def _bounds(node: ir.Node) -> tuple[float, float]:
    """The range a Relu or Clip lets through; NaN bounds for limits that are computed at run time."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    ends = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            array = constant(value)
            ends[index] = math.nan if array is None else float(array.astype(np.float64).reshape(-1)[0])
    return ends[0], ends[1]


def _pads_zero(node: ir.Node) -> bool:
    mode = text_attribute(node, "mode", "constant")
    value = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004 - Pad(data, pads, value, axes)
    array = constant(value)
    return mode != "constant" or value is None or (array is not None and not array.any())


def _picks_nearest(node: ir.Node) -> bool:
    crops = text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return text_attribute(node, "mode", "nearest") == "nearest" and not crops
