"""What int8 costs layer by layer, what float would cost there, and the fewest layers to leave float."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal, final

from calibration.fidelity import Judge
from calibration.modelfile import open_float
from calibration.placement import place
from calibration.prepare import prepare
from calibration.qdq import quantize_model
from calibration.subset import spread
from calibration.work import macs
from targets.errors import InputError

if TYPE_CHECKING:
    from calibration.samples import CalibrationSet
    from calibration.table import CalibrationTable, Range
    from targets.scheme import QuantScheme

Unit = Literal["us", "MACs"]
SAMPLES: Final = 32
_NOTHING: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """One layer with a quantised weight.

    Attributes:
        node: Its name in the float graph.
        module: The user's module it belongs to, empty where unknown.
        alone_db: Output SNR when only this layer is int8: how much it costs by itself.
        spared_db: How much the output SNR of the whole int8 model rises when this layer stays float.
        cost: What float costs there more than int8, in `Sensitivity.unit`.
    """

    node: str
    module: str
    alone_db: float
    spared_db: float
    cost: float

    @property
    def worth(self) -> float:
        """Gain for cost: what mixed precision spends on first."""
        return self.spared_db / max(self.cost, _NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All layers of a model, in graph order.

    Attributes:
        layers: One for each layer with a quantised weight.
        snr_db: Output SNR with all of them int8.
        unit: ``us``: costs come from a latency table, measured or predicted. ``MACs``: there was none, so
            multiply-accumulates of one sample stand in for time.
        samples: How many samples were used.
    """

    layers: tuple[LayerSensitivity, ...]
    snr_db: float
    unit: Unit
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedStep:
    """One point of the curve.

    Attributes:
        float_nodes: What was left float.
        cost: The sum of their costs.
        met: Whether the floor was met.
    """

    float_nodes: tuple[str, ...]
    cost: float
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision:
    """The fewest layers found.

    Attributes:
        float_nodes: They, in graph order; None where the floor is missed even with a single layer in int8.
        curve: What was tried, in order.
        unit: Of the costs.
    """

    float_nodes: tuple[str, ...] | None
    curve: tuple[MixedStep, ...]
    unit: Unit


def sensitivity(
    model_path: Path,
    table: CalibrationTable,
    scheme: QuantScheme,
    method: str,
    samples: CalibrationSet,
    *,
    threads: int,
    ranges: Mapping[str, Range] | None = None,
    float_nodes: Collection[str] = (),
    latency_us: Mapping[str, float] | None = None,
    modules: Mapping[str, str] | None = None,
    max_samples: int = SAMPLES,
) -> Sensitivity:
    """Quantises each layer alone, and each layer not, with nothing but a range method: two models a layer.

    Args:
        model_path: The float model.
        table: Its ranges.
        scheme: The dialect.
        method: Range method.
        samples: What the outputs are compared on.
        threads: Threads inside one operator.
        ranges: As for `quantize_model`.
        float_nodes: Nodes that are float in any case.
        latency_us: Node -> microseconds that float takes there more than int8, for every layer (negative where less).
        modules: Node -> module path of the user's, where that is known better than from the weight's name.
        max_samples: Most samples to use.

    Raises:
        InputError: As `quantize_model`, or the latency table lacks a layer.
    """
    prepared = prepare(open_float(model_path))
    placement = place(prepared.graph, scheme, float_nodes=float_nodes)
    layers = [*placement.weights]
    costs: Mapping[str, float] = latency_us or macs(prepared, placement, samples, threads=threads)
    if missing := [name for name in layers if name not in costs]:
        raise InputError(
            f"the latency table has no row for layer {missing[0]!r} ({len(missing)} in all)",
            f"it has {len(costs)} rows",
            "measure this very model, or leave the table out: multiply-accumulates then stand in for time",
        )
    used = spread(samples, max_samples, prepared.graph)
    judge = Judge(model_path, used, threads=threads)
    with TemporaryDirectory() as folder:

        def snr(left: Collection[str]) -> float:
            path = Path(folder) / "model.onnx"
            quantize_model(model_path, table, scheme, method, path, ranges=ranges, float_nodes={*float_nodes, *left})
            return judge(path).snr_db

        whole = snr(())
        found = tuple(
            LayerSensitivity(
                node=name,
                module=(modules or {}).get(name, placement.weights[name][0].removesuffix(".weight")),
                alone_db=snr([other for other in layers if other != name]),
                spared_db=round(snr([name]) - whole, 3) if len(layers) > 1 else 0.0,
                cost=round(costs[name], 3),
            )
            for name in layers
        )
    return Sensitivity(layers=found, snr_db=whole, unit="us" if latency_us else "MACs", samples=len(used))


def read_sensitivity(path: Path, *, unit: Unit = "MACs") -> Sensitivity:
    """What the rows of a ``layers.json`` hold of it.

    Raises:
        InputError: No row holds any.
    """
    rows = [row for row in json.loads(path.read_text("utf-8")) if "sensitivity_db" in row]
    if not rows:
        raise InputError(
            f"{path.name} holds no sensitivities", "they were not measured", 'set quantize.sensitivity = "on"'
        )
    layers = tuple(
        LayerSensitivity(
            node=row["node"],
            module=row["module"],
            alone_db=row["sensitivity_db"],
            spared_db=row["spared_db"],
            cost=row["cost"],
        )
        for row in rows
    )
    return Sensitivity(layers=layers, snr_db=float("nan"), unit=unit, samples=0)


def mixed_precision(
    found: Sensitivity, meets: Callable[[frozenset[str]], bool], *, most_tries: int = 16
) -> MixedPrecision:
    """The fewest layers to leave float so that a floor is met.

    Layers are ordered by what their float gives for what it costs. The shortest beginning of that order which meets the
    floor is found by bisection; then those that turn out to be needless go back to int8, the dearest first. One layer
    stays int8, for without any it is another candidate: the last in that order, or where that one's float is needed,
    the one whose float gives least.

    Args:
        found: What `sensitivity` measured.
        meets: Whether the model with these nodes in float meets the floor.
        most_tries: How often ``meets`` may be asked; the best known answer is given then.

    Raises:
        InputError: ``most_tries`` is below 2.
    """
    if most_tries < 2:  # noqa: PLR2004 - all in float, and one more
        raise InputError(f"most_tries is {most_tries}", "bisection asks at least twice", "give 2 or more")
    ranked = sorted(found.layers, key=lambda layer: -layer.worth)
    search = _Search(found, meets, most_tries)
    order = next((most for most in _most(ranked) if search.ask(most)), None)
    if order is None:
        return search.answer(None)
    low, high = 0, len(order)
    while high - low > 1 and search.left:
        middle = (low + high) // 2
        low, high = (low, middle) if search.ask(order[:middle]) else (middle, high)
    best = order[:high]
    for layer in sorted(best[:-1], key=lambda layer: -layer.cost):  # without the last one the floor was missed
        fewer = [other for other in best if other is not layer]
        if search.left and search.ask(fewer):
            best = fewer
    return search.answer(best)


def _most(ranked: Sequence[LayerSensitivity]) -> list[list[LayerSensitivity]]:
    """The largest sets that may go float, each without one layer; what is dear and decisive is in the second."""
    if len(ranked) < 2:  # noqa: PLR2004 - one that goes, one that stays
        return []
    stays = dict.fromkeys([ranked[-1], min(ranked, key=lambda layer: layer.spared_db)])
    return [[layer for layer in ranked if layer is not one] for one in stays]


@final
class _Search:
    """Counts the questions and keeps the curve."""

    def __init__(self, found: Sensitivity, meets: Callable[[frozenset[str]], bool], most_tries: int) -> None:
        self._found, self._meets, self.left = found, meets, most_tries
        self._curve: list[MixedStep] = []

    def ask(self, layers: Sequence[LayerSensitivity]) -> bool:
        self.left -= 1
        met = self._meets(frozenset(layer.node for layer in layers))
        cost = round(sum(layer.cost for layer in layers), 3)
        self._curve.append(MixedStep(float_nodes=self._in_order(layers), cost=cost, met=met))
        return met

    def answer(self, layers: Sequence[LayerSensitivity] | None) -> MixedPrecision:
        nodes = None if layers is None else self._in_order(layers)
        return MixedPrecision(float_nodes=nodes, curve=tuple(self._curve), unit=self._found.unit)

    def _in_order(self, layers: Sequence[LayerSensitivity]) -> tuple[str, ...]:
        names = {layer.node for layer in layers}
        return tuple(layer.node for layer in self._found.layers if layer.node in names)
