"""Cross-layer equalisation: channels change their scale between two layers so that weights need fewer levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.channels import FIXED, Channels, Factors, Labels, Touch, label_channels, scale_channels
from calibration.initializers import constant
from calibration.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

_ROUNDS: Final = 200
_SETTLED: Final = 1e-3
_LARGEST: Final = math.log(64.0)
_DEAD: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualizeReport:
    """What equalisation did.

    Attributes:
        tensors: Activations with channels of a new scale, in graph order; empty when the model stays as it was.
        channels: How many independent factors other than 1 were found.
        constants: How many weights and biases changed.
        rounds: Passes over all layers until the factors settled.
        before_ratio: Largest over smallest range of the channels that a layer reads or makes, geometric mean over
            layers and both sides; 1 where all are equal.
        after_ratio: The same after.
    """

    tensors: tuple[str, ...]
    channels: int
    constants: int
    rounds: int
    before_ratio: float
    after_ratio: float


def equalize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, EqualizeReport]:
    """The model with equalised weights (Nagel et al., arXiv 1906.04721, §4.1); it computes the same function.

    Each channel between layers gets the factor ``sqrt(r1 / r2)``, r1 the largest weight of what makes it and r2 of what
    reads it, repeated until it settles; with one layer on each side both then have equal ranges. Convolutions (also
    grouped, depthwise and transposed), Gemm and MatMul take factors up; Relu, LeakyRelu, PRelu, pools, moves, sums and
    Concat pass them on, so a chain through a depthwise layer is equalised as a whole and all members of a residual sum
    get the same factors. What an operator of any other kind touches, inputs and outputs of the graph, weights that
    several layers share, and what passes a clamp with a cap (ReLU6) keep their scale. Factors stay within 1/64 to 64.

    Raises:
        InputError: The model is none that `calibration.prepare.prepare` takes.
    """
    prepared = prepare(model)
    channels = label_channels(prepared.graph, norms=False)
    roots = channels.roots()
    layers = layer_sizes(channels, roots)
    logs, rounds = _balance(layers, len(roots))
    factors = np.exp(logs)
    before, after = _unevenness(layers, np.ones(len(roots))), _unevenness(layers, factors)
    changed = scale_channels(prepared.graph, channels, factors[roots])
    report = EqualizeReport(
        tensors=scaled_tensors(channels, factors[roots]),
        channels=int(np.count_nonzero(factors != 1.0)),
        constants=changed,
        rounds=rounds,
        before_ratio=before,
        after_ratio=after,
    )
    return ir.to_proto(prepared), report


def scaled_tensors(channels: Channels, factors: Factors) -> tuple[str, ...]:
    """Activations of which a channel has a factor other than 1, in graph order."""
    return tuple(name for name, layout in channels.layouts.items() if np.any(factors[layout.labels] != 1.0))


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Largest weights of a layer by channel.

    Attributes:
        size: Magnitudes, ``(a, b)``: the weight's first two axes.
        made: Labels of what each makes, ``(a, b)``.
        read: Labels of what each reads, ``(a, b)``.
    """

    size: Factors
    made: Labels
    read: Labels

    @classmethod
    def of(cls, touch: Touch, roots: Labels) -> LayerSizes:
        """Those of one weight."""
        array = constant(touch.node.inputs[touch.index])
        assert array is not None
        size = np.abs(array.astype(np.float64)).reshape(*array.shape[:2], -1).max(axis=2)
        made, read = (_flat(labels, size.shape, roots) for labels in (touch.made, touch.read))
        return cls(size, made, read)

    def scaled(self, factors: Factors) -> Factors:
        """Magnitudes with these factors, one for each label."""
        return np.asarray(self.size * factors[self.read] / factors[self.made], np.float64)


def _flat(labels: Labels | None, shape: tuple[int, ...], roots: Labels) -> Labels:
    if labels is None:
        return np.full(shape, FIXED)
    return np.broadcast_to(roots[labels].reshape(labels.shape[:2]), shape)


def layer_sizes(channels: Channels, roots: Labels) -> list[LayerSizes]:
    """All layers with weights."""
    return [LayerSizes.of(touch, roots) for touch in channels.touches if touch.kind == "weight"]


def largest_by_label(layers: Sequence[LayerSizes], factors: Factors) -> tuple[Factors, Factors]:
    """For each label the largest weight that makes it, and that reads it; 0 where there is none."""
    makes, reads = np.zeros(len(factors)), np.zeros(len(factors))
    for layer in layers:
        size = layer.scaled(factors)
        size = np.where(size > _DEAD * size.max(), size, 0.0)
        np.maximum.at(makes, layer.made, size)
        np.maximum.at(reads, layer.read, size)
    return makes, reads


def _balance(layers: Sequence[LayerSizes], count: int) -> tuple[Factors, int]:
    """Logarithms of the factors, and the number of rounds."""
    logs = np.zeros(count)
    for index in range(_ROUNDS if layers else 0):
        makes, reads = largest_by_label(layers, np.exp(logs))
        free = (makes > 0.0) & (reads > 0.0)
        free[FIXED] = False
        step = np.where(free, 0.5 * np.log(np.where(free, makes, 1.0) / np.where(free, reads, 1.0)), 0.0)
        new = np.clip(logs + step, -_LARGEST, _LARGEST)
        moved = float(np.abs(new - logs).max(initial=0.0))
        logs = new
        if moved < _SETTLED:
            return logs, index + 1
    return logs, _ROUNDS if layers else 0


def _unevenness(layers: Sequence[LayerSizes], factors: Factors) -> float:
    logs = []
    for layer in layers:
        size = layer.scaled(factors)
        for labels, axis in ((layer.made, 1), (layer.read, 0)):
            if np.any(labels != FIXED):
                largest = size.max(axis=axis)
                alive = largest[largest > _DEAD * size.max()]
                logs.append(math.log(alive.max() / alive.min()) if alive.size else 0.0)
    return round(math.exp(sum(logs) / len(logs)), 4) if logs else 1.0
