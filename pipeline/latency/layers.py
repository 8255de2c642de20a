"""What the latency model knows of a net: its layers, whose sizes follow the widths of groups, and its activations."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from pipeline.pruning.dims import is_labelled
from pipeline.pruning.rules import propagate
from pipeline.pruning.sites import unit_numbers, unit_roots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import fx

    from pipeline.pruning.groups import Group, PruningGraph
    from pipeline.pruning.widths import Widths

_WEIGHT_AXES: Final = 2
_BATCH: Final = 2  # graphs are traced with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a weight, as widths make it.

    Attributes:
        terms: Its length is the sum over terms of a count times the widths of some groups: of none for indices that
            stay, of two where units are the rows and columns of a grid (heads, and positions within them).
    """

    terms: tuple[tuple[float, tuple[str, ...]], ...]

    @property
    def groups(self) -> frozenset[str]:
        """The groups that it depends on."""
        return frozenset(name for _, names in self.terms for name in names)

    def size(self, widths: Widths) -> int:
        """Its length at these widths."""
        return round(sum(count * prod(widths[name] for name in names) for count, names in self.terms))

    def to_json(self) -> list[Any]:
        """As plain data."""
        return [[count, list(names)] for count, names in self.terms]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Axis:
        """What `to_json` wrote."""
        return cls(terms=tuple((float(count), tuple(names)) for count, names in data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A module with weights of two or more axes, some of which follow the widths of groups.

    Attributes:
        module: Its path.
        weights: Its weights' axes.
    """

    module: str
    weights: tuple[tuple[Axis, ...], ...]

    @property
    def groups(self) -> frozenset[str]:
        """The groups that it depends on."""
        return frozenset(name for weight in self.weights for axis in weight for name in axis.groups)

    def shape(self, whole: Widths) -> tuple[tuple[int, ...], ...]:
        """The weights' shapes at these widths."""
        return tuple(tuple(axis.size(whole) for axis in weight) for weight in self.weights)

    def features(self, widths: Widths, blocks: tuple[int, int]) -> tuple[float, float, float, float]:
        """One; weights; outputs; inputs; the last three with outputs and inputs in whole blocks of the kernels'."""
        volume = outputs = inputs = 0.0
        for weight in self.weights:
            sizes = [axis.size(widths) for axis in weight]
            out, into = (ceil(size / block) * block for size, block in zip(sizes[:2], blocks, strict=True))
            volume += float(out) * into * float(np.prod(sizes[2:]))
            outputs, inputs = outputs + out, inputs + into
        return 1.0, volume, outputs, inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What of a net depends on widths.

    Attributes:
        choices: Widths that each group may have, ascending.
        layers: Layers that depend on them.
        activations: By group, activation elements of one sample that one unit takes, over all operators.
    """

    choices: Mapping[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    activations: Mapping[str, float]

    @property
    def whole(self) -> dict[str, int]:
        """The dense net's widths."""
        return {name: widths[-1] for name, widths in self.choices.items()}

    def elements(self, widths: Widths) -> float:
        """Activation elements of one sample that follow the widths."""
        return sum(self.activations[name] * width for name, width in widths.items())

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "choices": {name: list(widths) for name, widths in self.choices.items()},
            "layers": [
                {
                    "module": layer.module,
                    "weights": [
                        [[[c, list(names)] for c, names in a.terms] for a in weight] for weight in layer.weights
                    ],
                }
                for layer in self.layers
            ],
            "activations": dict(self.activations),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Anatomy:
        """What `to_json` wrote."""
        return cls(
            choices={name: tuple(widths) for name, widths in data["choices"].items()},
            layers=tuple(
                Layer(
                    module=layer["module"],
                    weights=tuple(tuple(Axis.from_json(axis) for axis in weight) for weight in layer["weights"]),
                )
                for layer in data["layers"]
            ),
            activations=dict(data["activations"]),
        )


def anatomy(gm: fx.GraphModule, graph: PruningGraph, choices: Mapping[str, tuple[int, ...]]) -> Anatomy:
    """The anatomy of a graph whose groups (those named in ``choices``) may have other widths."""
    by_module: dict[str, list[tuple[Axis, ...]]] = {}
    touched: set[str] = set()
    for name, value in gm.named_parameters():
        if value.ndim < _WEIGHT_AXES:
            continue
        module = name.rpartition(".")[0] or name
        axes = tuple(_axis(graph, choices, name, axis, size) for axis, size in enumerate(value.shape))
        touched |= {module} if any(axis.groups for axis in axes) else set()
        by_module.setdefault(module, []).append(axes)
    layers = tuple(Layer(module=m, weights=tuple(weights)) for m, weights in by_module.items() if m in touched)
    return Anatomy(choices=dict(choices), layers=layers, activations=_activations(gm, graph, choices))


def _axis(graph: PruningGraph, choices: Mapping[str, tuple[int, ...]], parameter: str, axis: int, size: int) -> Axis:
    """How the length of a parameter's axis follows the widths."""
    owners = np.zeros(size, dtype=np.int64)  # a bit for each group that an index belongs to
    found: list[Group] = []
    for group in graph.groups:
        for member in group.members:
            if group.name in choices and (member.parameter, member.axis) == (parameter, axis):
                owners[member.units >= 0] |= 1 << len(found)
                found.append(group)
    terms = []
    for bits, count in zip(*np.unique(owners, return_counts=True), strict=True):
        groups = [group for place, group in enumerate(found) if int(bits) >> place & 1]
        terms.append((int(count) / prod(group.size for group in groups), tuple(group.name for group in groups)))
    return Axis(terms=tuple(terms))


def _activations(gm: fx.GraphModule, graph: PruningGraph, choices: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Activation elements of one sample that one unit of each group takes, over the outputs of all operators."""
    p = propagate(gm)
    roots = {group.name: unit_roots(p, group) for group in graph.groups if group.name in choices}
    found = dict.fromkeys(choices, 0.0)
    for node in gm.graph.nodes:
        layout = p.layouts.get(node)
        if node.op != "call_function" or not isinstance(layout, tuple) or p.is_parameter_view(node):
            continue
        for axis, dim in enumerate(layout):
            if not is_labelled(dim):
                continue
            sizes = [int(s) if isinstance(s, int) else _BATCH for s in p.shape(node)]
            others = float(np.prod(sizes)) / sizes[axis] / _BATCH
            for name, own in roots.items():
                units = unit_numbers(p, dim, own)
                if units is not None:
                    found[name] += others * int(np.count_nonzero(units >= 0)) / len(own)
    return found


Precision = Literal["fp32", "int8"]
