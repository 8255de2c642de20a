"""Forecasts what an int8 model computes on x86 CPUs without VNNI, whose products are added in pairs of 16 bits.

Their kernels multiply unsigned activations by signed weights with ``vpmaddubsw``: products of neighbours are added in
16 bits and limited to that range, then summed in 32 bits. With weights of 8 bits a pair can reach 2 x 255 x 127,
twice what fits; with 7 bits (at most 63), or as `calibration.pairs` makes them, none can. Signed inputs, depthwise
kernels and unsigned weights go through kernels that widen first. Which products are neighbours was read from the
runtime's kernels (matrix products: k, k+1 of even k; convolutions: window position first, channel inside it) and holds
bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

from calibration.integerops import (
    OPERATORS,
    Array,
    Integers,
    Sums,
    add_up,
    arranged,
    exact_sums,
    is_direct,
    out_shape,
    possible_share,
    rows,
    weight_matrices,
)
from calibration.modelfile import open_float
from calibration.operands import activation, constant_weight, finished
from calibration.qdq import snr_db
from calibration.stepwise import Stepwise, as_executed
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import onnx

_UNKNOWN: Final[Mapping[str, tuple[int, ...]]] = {
    "DynamicQuantizeLSTM": (1, 2),
    "QAttention": (1,),
}
"""Operators that quantise inside themselves, step by step, where we do not follow: a bound. Where their weights are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSaturation:
    """One integer operator.

    Attributes:
        node: Its name, as in the float graph.
        op: The integer operator it became.
        saturates: Whether it did on the samples; None where only a bound is known.
        pairs_ratio: Share of the added pairs that did not fit, None where only a bound is known.
        possible_ratio: Share of the weight's pairs that some input drives out of 16 bits: 0 means never, for any input.
        snr_db: Its sums with pairs in 16 bits against exact ones of the same inputs, 200 without saturation.
    """

    node: str
    op: str
    saturates: bool | None
    pairs_ratio: float | None
    possible_ratio: float
    snr_db: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturationForecast:
    """What a CPU without VNNI makes of a model.

    Attributes:
        layers: Every operator with unsigned inputs and signed weights, in the order of execution.
        samples: How many samples were run.
        output_snr_db: Outputs there against exact ones, the worst output; 200 where they are equal.
        agreement: Share of samples (and positions) with the same largest class, None without an output of classes.
    """

    layers: tuple[LayerSaturation, ...]
    samples: int
    output_snr_db: float
    agreement: float | None

    @property
    def safe(self) -> bool:
        """True when no pair can leave 16 bits, whatever the input: every CPU computes the same."""
        return all(layer.possible_ratio == 0.0 for layer in self.layers)

    @property
    def saturating(self) -> tuple[str, ...]:
        """Nodes that saturate on the samples, or may and cannot be followed."""
        return tuple(
            layer.node
            for layer in self.layers
            if layer.saturates or (layer.saturates is None and layer.possible_ratio > 0)
        )


def forecast(quantized: Path, samples: Iterable[Mapping[str, Array]], *, threads: int) -> SaturationForecast:
    """Runs the model twice, with exact sums and with pairs limited to 16 bits.

    Weights of operators in `_UNKNOWN` give a bound only; they run exactly in both.

    Args:
        quantized: A model with Q/DQ, or one with dynamic int8.
        samples: Batches, such as a `CalibrationSet`. A few dozen samples suffice.
        threads: Threads inside one operator.

    Raises:
        InputError: The model cannot be loaded, multiplies nothing in integers, or there are no samples.
    """
    run = _Forecast(quantized, threads=threads)
    exact, saturated, count = run.both(samples)
    pairs = [(exact[name], saturated[name]) for name in exact if exact[name].dtype.kind == "f"]
    classes = [(a, b) for a, b in pairs if a.ndim > 1 and a.shape[-1] > 1]
    same = [np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in classes]
    return SaturationForecast(
        layers=run.layers(),
        samples=count,
        output_snr_db=min((snr_db(a, b) for a, b in pairs), default=200.0),
        agreement=float(min(same)) if same else None,
    )


def saturating_outputs(
    quantized: Path, samples: Iterable[Mapping[str, Array]], *, threads: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs by name, ``(exact, with pairs in 16 bits)``, all samples in a row; arguments and errors of `forecast`."""
    exact, saturated, _ = _Forecast(quantized, threads=threads).both(samples)
    return exact, saturated


@final
class _Tally:
    def __init__(self) -> None:
        self.pairs = self.hit = 0
        self.signal = self.noise = 0.0

    def add(self, sums: Sums, offset: Integers) -> None:
        """Counts sums of one stretch; ``offset`` (channels,) is what the zero point takes away from each."""
        self.pairs += sums.pairs
        self.hit += sums.hit
        real = (sums.exact - offset).astype(np.float64)
        self.signal += float(np.sum(real**2))
        self.noise += float(np.sum((sums.exact - sums.saturated).astype(np.float64) ** 2))

    @property
    def snr_db(self) -> float:
        if self.noise == 0.0 or self.signal == 0.0:
            return 200.0 if self.noise == 0.0 else -200.0
        return round(min(max(10.0 * math.log10(self.signal / self.noise), -200.0), 200.0), 3)


@final
class _Forecast:
    def __init__(self, quantized: Path, *, threads: int) -> None:
        executed = as_executed(open_float(quantized))
        whole = Stepwise(executed, frozenset(), threads=threads)
        self._nodes = {node.name: node for node in executed.graph.node}
        weights = {n.name: constant_weight(n, whole.arrays) for n in executed.graph.node if n.op_type in OPERATORS}
        known = {name: w for name, w in weights.items() if w is not None and not is_direct(self._nodes[name], w)}
        self._weights = {name: weight_matrices(self._nodes[name], weight) for name, weight in known.items()}
        self._kernels = {name: weight.shape[2:] for name, weight in known.items()}
        self._bounds = {n.name: _bound(n, whole.arrays) for n in executed.graph.node if n.op_type in _UNKNOWN}
        if not weights and not self._bounds:
            raise InputError(
                f"{quantized.name} multiplies nothing in integers",
                "ONNX Runtime found no Q/DQ that it can turn into an integer operator",
                "give a model quantised in a dialect of ONNX Runtime, such as 'ort-x86'",
            )
        self._model = Stepwise(executed, frozenset(self._weights), threads=threads)
        self._tallies = {name: _Tally() for name in self._weights}
        self._signed: set[str] = set()

    def both(self, samples: Iterable[Mapping[str, Array]]) -> tuple[dict[str, Array], dict[str, Array], int]:
        found: tuple[dict[str, list[Array]], dict[str, list[Array]]] = ({}, {})
        count = 0
        for batch in samples:
            count += len(next(iter(batch.values())))
            before = sum(tally.hit for tally in self._tallies.values())
            saturated = self._model.run(batch, lambda node, known: self._compute(node, known, exact=False))
            hit = sum(tally.hit for tally in self._tallies.values()) > before
            exact = (
                self._model.run(batch, lambda node, known: self._compute(node, known, exact=True)) if hit else saturated
            )
            for store, outputs in zip(found, (exact, saturated), strict=True):
                for name, array in outputs.items():
                    store.setdefault(name, []).append(np.atleast_1d(array))
        if not count:
            raise InputError("there are 0 samples", "a forecast runs the model on samples", "give a few dozen")
        exact, saturated = ({name: np.concatenate(arrays) for name, arrays in store.items()} for store in found)
        return exact, saturated, count

    def layers(self) -> tuple[LayerSaturation, ...]:
        found = []
        for name, node in self._nodes.items():
            if name in self._weights:
                tally = self._tallies[name]
                found.append(
                    LayerSaturation(
                        node=name,
                        op=node.op_type,
                        saturates=tally.hit > 0,
                        pairs_ratio=tally.hit / max(tally.pairs, 1),
                        possible_ratio=0.0
                        if name in self._signed
                        else float(np.mean([possible_share(w) for w in self._weights[name]])),
                        snr_db=tally.snr_db,
                    )
                )
            elif name in self._bounds:
                bound = self._bounds[name]
                found.append(
                    LayerSaturation(
                        node=name,
                        op=node.op_type,
                        saturates=None if bound else False,
                        pairs_ratio=None if bound else 0.0,
                        possible_ratio=bound,
                        snr_db=None if bound else 200.0,
                    )
                )
        return tuple(found)

    def _compute(self, node: onnx.NodeProto, known: Mapping[str, Array], *, exact: bool) -> dict[str, Array]:
        where = OPERATORS[node.op_type]
        values = [known.get(name, self._model.arrays.get(name)) if name else None for name in node.input]
        data, scale, zero = activation(where, values)
        kernel, matrices = self._kernels[node.name], self._weights[node.name]
        if data.dtype == np.int8:  # kernels for signed inputs widen both sides to 16 bits first
            self._signed.add(node.name)
            exact = True
        parts = []
        for stretch in rows(node, data, zero, kernel):
            made = []
            for left, weight in zip(stretch, matrices, strict=True):
                offset = zero * weight.astype(np.int64).sum(axis=0)
                if exact:
                    made.append(exact_sums(left, weight) - offset)
                    continue
                sums = add_up(left, weight)
                self._tallies[node.name].add(sums, offset)
                made.append(sums.saturated - offset)
            parts.append(np.concatenate(made, axis=1))
        whole = np.concatenate(parts)  # (rows, N)
        result = finished(node, where, values, whole, scale)
        return {node.output[0]: arranged(node, result, out_shape(node, data, whole.shape[1], kernel))}


def _bound(node: onnx.NodeProto, constants: Mapping[str, Array]) -> float:
    """The largest share of pairs that may leave 16 bits, over an operator's weights and both ways to pair."""
    shares = []
    for index in _UNKNOWN[node.op_type]:
        array = constants.get(node.input[index])
        if array is None or array.dtype != np.int8:
            continue
        shares.append(possible_share(array.reshape(-1, array.shape[-1])))
    return max(shares, default=0.0)
