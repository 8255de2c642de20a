"""Latency as a sum over layers, fitted to what was measured: each layer's time by its inputs and outputs together.

A layer's time is ``a + b * weights + c * outputs + d * inputs`` with no negative coefficient, where outputs and inputs
count in whole blocks of the kernels' (a convolution of 24 channels may take what one of 32 takes): the product of both
widths is in it, so that narrowing a layer on both sides saves what it really saves. Layers of one shape share a curve.
All else grows with the activation elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.latency.layers import Anatomy, Layer
    from pipeline.pruning.widths import Widths

BLOCKS: Final = (1, 4, 8, 16, 32)
_CLEARLY: Final = 0.9  # a block size must bring the error below this share of that without blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class NetTimes:
    """One net as measured.

    Attributes:
        widths: Units of each group.
        layers_ms: Time of each module's nodes, by its path.
        total_ms: Latency of the whole net.
    """

    widths: Mapping[str, int]
    layers_ms: Mapping[str, float]
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The time of layers of one shape.

    Attributes:
        coefficients_ms: Of `Layer.features`.
        blocks: Block size of outputs and of inputs.
    """

    coefficients_ms: tuple[float, ...]
    blocks: tuple[int, int]

    def at(self, layer: Layer, widths: Widths) -> float:
        """Milliseconds of the layer at these widths."""
        pairs = zip(self.coefficients_ms, layer.features(widths, self.blocks), strict=True)
        return sum(coefficient * feature for coefficient, feature in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """What a net of given widths takes.

    Attributes:
        anatomy: The net's layers and activations.
        curves: By module.
        rest_ms: Of everything that is no layer: a constant, and by activation element.
        correction: Factor found by measuring whole nets afterwards.
    """

    anatomy: Anatomy
    curves: Mapping[str, Curve]
    rest_ms: tuple[float, float]
    correction: float = 1.0

    def predict_ms(self, widths: Widths) -> float:
        """Latency of the net of these widths."""
        layers = sum(self.curves[layer.module].at(layer, widths) for layer in self.anatomy.layers)
        return self.correction * (layers + self.rest_ms[0] + self.rest_ms[1] * self.anatomy.elements(widths))


def fit(anatomy: Anatomy, nets: Sequence[NetTimes], kinds: Mapping[str, str]) -> LatencyModel:
    """The model of these measurements.

    Args:
        anatomy: Of the net.
        nets: As measured, the whole net first.
        kinds: By module: layers of one kind share a curve (the same operator at the same shapes).
    """
    shared: dict[str, list[Layer]] = {}
    for layer in anatomy.layers:
        shared.setdefault(kinds.get(layer.module, layer.module), []).append(layer)
    curves = {}
    for layers in shared.values():
        curve = _curve([(layer, net.widths, net.layers_ms.get(layer.module, 0.0)) for layer in layers for net in nets])
        curves.update({layer.module: curve for layer in layers})
    own = [sum(curves[layer.module].at(layer, net.widths) for layer in anatomy.layers) for net in nets]
    left = np.array([net.total_ms - layers_ms for net, layers_ms in zip(nets, own, strict=True)])
    features = np.array([[1.0, anatomy.elements(net.widths)] for net in nets])
    weights = 1 / np.array([net.total_ms for net in nets])
    constant, slope = nonnegative_fit(features, left, weights)[0]
    return LatencyModel(anatomy=anatomy, curves=curves, rest_ms=(float(constant), float(slope)))


def errors(model: LatencyModel, nets: Sequence[NetTimes]) -> list[float]:
    """Predicted over measured, less one, of each net."""
    return [model.predict_ms(net.widths) / net.total_ms - 1 for net in nets]


def held_out_errors(anatomy: Anatomy, nets: Sequence[NetTimes], kinds: Mapping[str, str]) -> list[float]:
    """For each net but the first two, the error of a model that has not seen it."""
    found = []
    for index in range(2, len(nets)):
        others = [net for number, net in enumerate(nets) if number != index]
        found += errors(fit(anatomy, others, kinds), [nets[index]])
    return found


def _curve(points: Sequence[tuple[Layer, Widths, float]]) -> Curve:
    """The curve and block sizes that fit best, relative to the times; blocks only where they clearly help."""
    times = np.array([time_ms for _, _, time_ms in points])
    weights = 1 / np.maximum(times, 1e-6 + 0.01 * float(times.max(initial=0.0)))
    best: tuple[float, Curve] | None = None
    for blocks in ((out, into) for out in BLOCKS for into in BLOCKS):
        features = np.array([layer.features(widths, blocks) for layer, widths, _ in points])
        coefficients, error = nonnegative_fit(features, times, weights)
        if best is None or error < _CLEARLY * best[0]:
            best = error, Curve(coefficients_ms=tuple(float(c) for c in coefficients), blocks=blocks)
    assert best is not None
    return best[1]


def nonnegative_fit(
    features: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Weighted least squares without negative coefficients, exact for few features.

    The optimum uses some subset of the features, freely (Lawson and Hanson, Solving Least Squares Problems, 1974,
    chapter 23): with four of them all sixteen subsets are tried.

    Args:
        features: ``(points, features)``.
        values: ``(points,)``.
        weights: ``(points,)``, of the residuals.

    Returns:
        Coefficients ``(features,)``, and the root mean squared weighted residual.
    """
    scaled, wanted = features * weights[:, None], values * weights
    units = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
    best, least = np.zeros(features.shape[1]), float(np.sqrt(np.square(wanted).mean()))
    for count in range(1, features.shape[1] + 1):
        for subset in combinations(range(features.shape[1]), count):
            columns = list(subset)
            solved = np.linalg.lstsq(scaled[:, columns] / units[columns], wanted, rcond=None)[0]
            if (solved < 0).any():
                continue
            error = float(np.sqrt(np.square(scaled[:, columns] / units[columns] @ solved - wanted).mean()))
            if error < least * (1 - 1e-9):
                least, best = error, np.zeros(features.shape[1])
                best[columns] = solved / units[columns]
    return best, least


def model_to_json(model: LatencyModel) -> dict[str, Any]:
    """As plain data."""
    return {
        "anatomy": model.anatomy.to_json(),
        "curves": {
            module: {"coefficients_ms": list(curve.coefficients_ms), "blocks": list(curve.blocks)}
            for module, curve in model.curves.items()
        },
        "rest_ms": list(model.rest_ms),
        "correction": model.correction,
    }


def model_from_json(data: Mapping[str, Any]) -> LatencyModel:
    """What `model_to_json` wrote."""
    from pipeline.latency.layers import Anatomy

    return LatencyModel(
        anatomy=Anatomy.from_json(data["anatomy"]),
        curves={
            module: Curve(coefficients_ms=tuple(item["coefficients_ms"]), blocks=tuple(item["blocks"]))
            for module, item in data["curves"].items()
        },
        rest_ms=(float(data["rest_ms"][0]), float(data["rest_ms"][1])),
        correction=float(data["correction"]),
    )
