"""SmoothQuant: large activation channels become smaller and the weights that read them larger; same function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import onnx_ir as ir

from calibration.channels import FIXED, Channels, Factors, Labels, label_channels, scale_channels
from calibration.equalize import largest_by_label, layer_sizes, scaled_tensors
from calibration.modelfile import runnable
from calibration.prepare import main_nodes, prepare
from calibration.reductions import add_channel_maxima
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from calibration.samples import CalibrationSet

ALPHA: Final = 0.5
_LARGEST: Final = 1e3
_MAXIMUM: Final = "__maximum_of__"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothReport:
    """What smoothing did.

    Attributes:
        tensors: Activations with channels of a new scale, in graph order; empty when the model stays as it was.
        channels: How many independent factors other than 1 were found.
        constants: How many constants changed.
        before_ratio: Largest over median channel maximum, geometric mean over these tensors.
        after_ratio: The same after.
    """

    tensors: tuple[str, ...]
    channels: int
    constants: int
    before_ratio: float
    after_ratio: float


def smooth(
    model: onnx.ModelProto,
    samples: CalibrationSet,
    *,
    alpha: float = ALPHA,
    threads: int,
    scope: Literal["norms", "all"] = "norms",
) -> tuple[onnx.ModelProto, SmoothReport]:
    """The model with smoothed activations (Xiao et al., arXiv 2211.10438, eq. 4); it computes the same function.

    Channel j of an activation is divided by ``max|X_j|**alpha / max|W_j|**(1 - alpha)``, the weights of all layers that
    read it are multiplied by it. Factors have geometric mean 1 in each tensor's own layer, and stay within 1/1000 to
    1000.

    Args:
        model: The float model.
        samples: Where the channel maxima are measured.
        alpha: 0 looks at the weights alone, 1 at the activations alone.
        threads: Threads inside one operator.
        scope: ``norms``: what a normalisation makes (its scale and offset take the factor up) and only layers with
            weights read; ``all``: every activation between layers, as in `calibration.equalize.equalize`.

    Raises:
        InputError: ``alpha`` is outside 0 to 1, or the samples do not fit the model.
    """
    if not 0.0 <= alpha <= 1.0 or scope not in {"norms", "all"}:
        raise InputError(
            f"alpha={alpha}, scope={scope!r}", "alpha lies between 0 and 1, scope is norms or all", "leave them out"
        )
    samples.check_against(io_of(model))
    prepared = prepare(model)
    channels = label_channels(prepared.graph, norms=True)
    roots = channels.roots()
    candidates = _candidates(channels, roots, scope)
    maxima = _maxima(prepared, channels, candidates, samples, threads)
    peaks = np.zeros(len(roots))
    for name, largest in maxima.items():
        np.maximum.at(peaks, roots[channels.layouts[name].labels], largest)
    factors = _factors(channels, roots, peaks, alpha)
    changed = scale_channels(prepared.graph, channels, factors[roots])
    tensors = tuple(name for name in scaled_tensors(channels, factors[roots]) if name in maxima)
    scaled = {name: maxima[name] / factors[roots][channels.layouts[name].labels] for name in tensors}
    report = SmoothReport(
        tensors=tensors,
        channels=int(np.count_nonzero(factors != 1.0)),
        constants=changed,
        before_ratio=_unevenness({name: maxima[name] for name in tensors}),
        after_ratio=_unevenness(scaled),
    )
    return ir.to_proto(prepared), report


def _candidates(channels: Channels, roots: Labels, scope: str) -> list[str]:
    """Activations with free channels; in scope ``norms`` only those whose labels a normalisation makes."""
    chosen = np.zeros(len(roots), bool)
    for touch in channels.touches:
        if touch.made is not None and (scope == "all" or touch.kind == "norm"):
            chosen[roots[touch.made]] = True
    chosen[FIXED] = False
    return [name for name, layout in channels.layouts.items() if chosen[roots[layout.labels]].any()]


def _maxima(
    prepared: ir.Model, channels: Channels, names: list[str], samples: CalibrationSet, threads: int
) -> dict[str, Factors]:
    """Largest magnitude of each channel, computed inside the graph."""
    values = {str(value.name): value for node in main_nodes(prepared.graph) for value in node.outputs}
    watched: dict[str, tuple[ir.Value, int, int]] = {}
    for name in names:
        shape = values[name].shape
        if shape is not None:
            watched[f"{_MAXIMUM}{name}"] = (values[name], len(shape), channels.layouts[name].axis)
    if not watched:
        return {}
    proto = ir.to_proto(prepared)
    copy = ir.from_proto(proto)
    copied = {str(value.name): value for node in main_nodes(copy.graph) for value in node.outputs}
    add_channel_maxima(copy.graph, {key: (copied[str(v.name)], rank, axis) for key, (v, rank, axis) in watched.items()})
    with runnable(copy) as source:
        session = Session(source, threads=threads, optimize=True)
    largest: dict[str, Factors] = {}
    for batch in samples:
        for key, found in zip(watched, session.run([*watched], batch), strict=True):
            name = key.removeprefix(_MAXIMUM)
            largest[name] = np.maximum(largest.get(name, 0.0), found.astype(np.float64))
    return largest


def _factors(channels: Channels, roots: Labels, peaks: Factors, alpha: float) -> Factors:
    """One factor for each label; 1 where an activation or its readers' weights are all zero."""
    _, reads = largest_by_label(layer_sizes(channels, roots), np.ones(len(roots)))
    free = (peaks > 0.0) & (reads > 0.0)
    free[FIXED] = False
    logs = np.where(
        free, alpha * np.log(np.where(free, peaks, 1.0)) - (1 - alpha) * np.log(np.where(free, reads, 1.0)), 0.0
    )
    for labels in _families(channels, roots, free):
        logs[labels] -= logs[labels].mean()
    limit = np.log(_LARGEST)
    return np.asarray(np.where(free, np.exp(np.clip(logs, -limit, limit)), 1.0), np.float64)


def _families(channels: Channels, roots: Labels, free: np.ndarray) -> list[Labels]:
    """Free labels that lie in tensors together: a common factor of all of them changes nothing, so it is left out."""
    left = set(np.flatnonzero(free).tolist())
    sets = [set(roots[layout.labels].tolist()) & left for layout in channels.layouts.values()]
    families: list[set[int]] = []
    for labels in sets:
        together = set(labels)
        apart = []
        for family in families:
            if family & together:
                together |= family
            else:
                apart.append(family)
        families = [*apart, together] if together else apart
    return [np.array(sorted(family)) for family in families]


def _unevenness(maxima: Mapping[str, Factors]) -> float:
    ratios = [np.log(m.max() / np.median(m[m > 0.0])) for m in maxima.values() if np.any(m > 0.0)]
    return round(float(np.exp(np.mean(ratios))), 4) if ratios else 1.0
