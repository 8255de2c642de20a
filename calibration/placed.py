"""The answer of placement: which tensors are quantised, which share a scale, what reads integers, what stays float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where int8 goes.

    Attributes:
        roots: Quantised activation -> the activation that names its scale group.
        weights: Node -> (weight tensor, output channel axis).
        constants: Constant operands of element-wise nodes, quantised like activations.
        folded: Relu and Clip nodes that the range of their output replaces.
        caps: Quantised activation -> the largest value its folded Clip lets through.
        fixed: Quantised activation -> the range that the engine prescribes for it and for all of its scale group.
        moved: Nodes that only move values and therefore run on the integers themselves.
        int8: Nodes that run in int8, folded ones included.
        reads: (node, input index) of the nodes that read a quantised activation behind Q/DQ.
        produced: Quantised activations that an integer operator writes: all their readers read them behind Q/DQ.
        reasons: Every other node -> why it stays float.
    """

    roots: Mapping[str, str]
    weights: Mapping[str, tuple[str, int]]
    constants: frozenset[str]
    folded: frozenset[str]
    caps: Mapping[str, float]
    fixed: Mapping[str, tuple[float, float]]
    moved: frozenset[str]
    int8: frozenset[str]
    reads: frozenset[tuple[str, int]]
    produced: frozenset[str]
    reasons: Mapping[str, str]
