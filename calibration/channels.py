"""Which channels of which tensors may be scaled without changing what a float graph computes, found by structure.

Every channel of every activation gets a label; operators that keep a scale of their input (x -> a x gives y -> a y,
a > 0) keep labels, sums unite them, layers with weights take them up and give out new ones. Dividing all producers of a
label by a factor and multiplying all its readers' weights by it changes nothing (Nagel et al., arXiv 1906.04721, §4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.initializers import constant, remove_unused_initializers, set_initializer
from calibration.prepare import main_nodes

if TYPE_CHECKING:
    from collections.abc import Mapping

Labels = NDArray[np.int64]
Factors = NDArray[np.float64]
FIXED: Final = 0
"""The label of everything that must keep its scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a tensor's channels lie.

    Attributes:
        axis: Channel axis, not negative.
        labels: One label for each index of it.
    """

    axis: int
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A constant that follows the scales of labels.

    Attributes:
        node: The node that reads it.
        index: As which input.
        made: Labels it is divided by, of a shape that broadcasts with the constant; None: by nothing.
        read: Labels it is multiplied by, likewise.
        kind: ``weight`` of a compute node, ``norm`` for scale and offset of a normalisation, ``offset`` for a bias or
            a constant summand.
    """

    node: ir.Node
    index: int
    made: Labels | None
    read: Labels | None
    kind: str


@final
class Channels:
    """The labels of one prepared graph.

    Attributes:
        layouts: Activation -> its layout; absent where nothing is known, which fixes the scale.
        touches: Constants that follow.
    """

    def __init__(self) -> None:
        self._parent = [FIXED]
        self.layouts: dict[str, Layout] = {}
        self.touches: list[Touch] = []

    def fresh(self, count: int) -> Labels:
        """New labels."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def unite(self, one: Labels, other: Labels) -> None:
        """Makes labels equal, index by index."""
        for a, b in zip(*(part.reshape(-1) for part in np.broadcast_arrays(one, other)), strict=True):
            low, high = sorted((self._root(int(a)), self._root(int(b))))
            self._parent[high] = low

    def fix(self, value: ir.Value | None) -> None:
        """Keeps the scale of a tensor."""
        layout = self.layouts.get(str(value.name)) if value is not None else None
        if layout is not None:
            self.unite(layout.labels, np.array(FIXED))

    def roots(self) -> Labels:
        """Label -> the label that stands for its class."""
        return np.array([self._root(label) for label in range(len(self._parent))])

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label


def scale_channels(graph: ir.Graph, channels: Channels, factors: Factors) -> int:
    """Divides what makes each label by its factor and multiplies what reads it.

    Args:
        graph: Edited in place.
        channels: Its labels.
        factors: One positive factor for each label, equal within a class, 1 for `FIXED`.

    Returns:
        How many constants changed.
    """
    changed = 0
    for touch in channels.touches:
        value = touch.node.inputs[touch.index]
        array = constant(value)
        assert value is not None
        assert array is not None
        factor = ratio(touch, factors)
        if np.all(factor == 1.0):
            continue
        scaled = (array.astype(np.float64) * factor).astype(array.dtype)
        touch.node.replace_input_with(touch.index, _stored(graph, value, scaled))
        changed += 1
    remove_unused_initializers(graph)
    return changed


def ratio(touch: Touch, factors: Factors) -> Factors:
    """What a constant is multiplied by, broadcastable with it."""
    made = 1.0 if touch.made is None else factors[touch.made]
    read = 1.0 if touch.read is None else factors[touch.read]
    return np.asarray(read / made, np.float64)


def _stored(graph: ir.Graph, value: ir.Value, array: NDArray[np.generic]) -> ir.Value:
    """A weight of its own keeps its name; what others read too becomes a new constant."""
    if len(value.uses()) > 1 or value.is_graph_output():
        return set_initializer(graph, f"{value.name}__scaled", array)
    value.const_value = ir.tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)
    return value


def label_channels(graph: ir.Graph, *, norms: bool) -> Channels:
    """Labels of a prepared graph.

    Args:
        graph: With shapes, as `calibration.prepare.prepare` gives it.
        norms: Whether scale and offset of a normalisation operator may take up a factor.
    """
    from calibration.channel_rules import RULES

    channels = Channels()
    for node in main_nodes(graph):
        rule = RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if node.op_type in _NORMS and not norms:
            rule = None
        layout = rule(channels, node) if rule is not None else None
        if layout is None:
            for value in node.inputs:
                channels.fix(value)
        elif len(node.outputs) == 1 or not any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            channels.layouts[str(node.outputs[0].name)] = layout
        else:
            channels.unite(layout.labels, np.array(FIXED))
    _fix_outside(graph, channels)
    _fix_shared_weights(channels)
    return channels


_NORMS: Final = frozenset(
    {"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization"}
    | {"InstanceNormalization"}
)


def _fix_outside(graph: ir.Graph, channels: Channels) -> None:
    """What leaves the graph, or is read inside If and Loop bodies, keeps its scale."""
    values: Mapping[str, ir.Value] = {str(v.name): v for node in main_nodes(graph) for v in node.outputs}
    for name in channels.layouts:
        value = values[name]
        if value.is_graph_output() or any(node.graph is not graph for node, _ in value.uses()):
            channels.fix(value)


def _fix_shared_weights(channels: Channels) -> None:
    for touch in channels.touches:
        weight = touch.node.inputs[touch.index]
        if touch.kind == "weight" and weight is not None and (len(weight.uses()) > 1 or weight.is_graph_output()):
            for labels in (touch.made, touch.read):
                if labels is not None:
                    channels.unite(labels, np.array(FIXED))
