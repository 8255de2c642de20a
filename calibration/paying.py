"""Where int8 cannot pay: layers so small that rounding their inputs and outputs takes what int8 arithmetic saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from calibration.exposure import Watched, values_per_run
from calibration.layout import Step, joins_of, layouts_us
from calibration.placement import place
from calibration.prepare import constant, main_nodes
from calibration.rules_weights import int_attribute
from calibration.work import macs
from targets.costs import THIN_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_ir as ir

    from calibration.placed import Placement
    from calibration.samples import CalibrationSet
    from targets.costs import Kind, LayerCosts
    from targets.scheme import QuantScheme

_PASSES: Final = 3
_EDGE: Final = 8
"""Layers from each end of the graph that are tried together."""

_GAIN: Final = 0.98
"""Predicted time of the whole, over that before, of a move worth making."""

_SLOWER: Final = 1.005
"""Less than that is below what is foretold."""

_MOST: Final = 0.5
"""Share of the work that may go to float: a model that would have more of it there is better off without int8."""

_IMAGE_RANK: Final = 4


@final
class Prediction:
    """Predicts the time of one sample under a choice of float layers.

    Args:
        graph: The prepared float graph.
        scheme: The dialect.
        costs: What layers and conversions take.
        work: Multiply-accumulates of each layer.
        sizes: Values of each tensor in one sample.
    """

    def __init__(
        self,
        graph: ir.Graph,
        scheme: QuantScheme,
        costs: LayerCosts,
        work: Mapping[str, float],
        sizes: Mapping[str, int],
    ) -> None:
        self._graph, self._scheme, self._costs, self._work, self._sizes = graph, scheme, costs, work, sizes
        self._nodes = {str(node.name): node for node in main_nodes(graph)}
        self._kinds = {name: _kind(self._nodes[name]) for name in work}
        values = [*graph.inputs, *(value for node in self._nodes.values() for value in node.outputs)]
        self._images = {str(value.name) for value in values if _is_image(value)}
        self._channels = {str(value.name): size for value in values if (size := _channels(value)) is not None}
        self._outputs = {str(value.name) for value in graph.outputs}

    def saving_us(self, layer: str) -> float:
        """What int8 arithmetic saves in that layer, conversions not counted."""
        work, kind = self._work[layer], self._kinds[layer]
        return self._costs.layer_us(work, kind, int8=False) - self._costs.layer_us(work, kind, int8=True)

    def most_conversions_us(self, layer: str) -> float:
        """What conversions of that layer's input and output take at most."""
        node = self._nodes[layer]
        values = [str(node.inputs[0].name), str(node.outputs[0].name)] if node.inputs[0] is not None else []
        return sum(self._convert_us(name) for name in values)

    def siblings(self, layer: str) -> frozenset[str]:
        """The layers that read the same tensor."""
        read = self._nodes[layer].inputs[0]
        return frozenset(name for name in self._work if self._nodes[name].inputs[0] is read)

    def total_us(self, float_layers: Collection[str]) -> float:
        """Layers and conversions; what takes the same time either way is not counted."""
        placement = place(self._graph, self._scheme, float_nodes=float_layers)
        layers = sum(
            self._costs.layer_us(work, self._kinds[name], int8=name in placement.int8)
            for name, work in self._work.items()
        )
        conversions = sum(self._convert_us(name) for name in self._converted(placement))
        return layers + conversions + self._layouts_us(placement)

    def slows(self, float_layers: Collection[str], before: Collection[str]) -> bool:
        """Whether the whole is predicted to take longer than ``before``, by more than a two-hundredth."""
        return self.total_us(float_layers) > self.total_us(before) * _SLOWER

    def _convert_us(self, name: str) -> float:
        return self._costs.convert_us(self._sizes[name], image=name in self._images)

    def _layouts_us(self, placement: Placement) -> float:
        """What images that come from float cost the integer operators that join them with others."""
        steps = [
            Step(
                reads=tuple(str(value.name) for value in _read(node)),
                makes=tuple(str(value.name) for value in node.outputs),
                passes=name in placement.int8 and name not in placement.weights,
            )
            for name, node in self._nodes.items()
        ]
        roots = [
            name
            for name in placement.roots
            if name not in placement.produced and name in self._images and name in self._channels
        ]
        return sum(
            layouts_us(self._costs, joins_of(name, steps, self._images), self._channels[name], self._sizes[name])
            for name in roots
            if name in self._sizes
        )

    def _converted(self, placement: Placement) -> list[str]:
        """Tensors that go from float to integers, and from integers to float."""
        rounded = [name for name in placement.roots if name not in placement.produced and name in self._sizes]
        read_in_float = {
            str(value.name)
            for name, node in self._nodes.items()
            if name not in placement.int8
            for value in node.inputs
            if value is not None
        } | self._outputs
        return rounded + [name for name in placement.produced if name in read_in_float and name in self._sizes]


def layers_without_gain(
    prepared: ir.Model, scheme: QuantScheme, costs: LayerCosts, samples: CalibrationSet, *, threads: int
) -> frozenset[str]:
    """Layers that are predicted to be faster in float, taken together.

    Starts with all layers in int8; layers at the ends of the graph, single ones and those that read the same tensor go
    to float where the predicted time of the whole falls by it, at most half of the work in all.

    Args:
        prepared: The prepared float graph.
        scheme: The dialect.
        costs: What layers and conversions take with it.
        samples: Any samples; only their shapes count.
        threads: Threads inside one operator.
    """
    prediction, work = predict(prepared, scheme, costs, samples, threads=threads)
    return fastest_mix(prediction, work)


def float_cost_us(
    prepared: ir.Model,
    scheme: QuantScheme,
    costs: LayerCosts,
    samples: CalibrationSet,
    *,
    threads: int,
    float_nodes: frozenset[str] = frozenset(),
) -> dict[str, float]:
    """Microseconds that the whole is predicted to take more when one more layer goes to float; negative where fewer.

    Arguments are as for `layers_without_gain`; ``float_nodes`` are float already.
    """
    prediction, work = predict(prepared, scheme, costs, samples, threads=threads)
    whole = prediction.total_us(float_nodes)
    return {name: round(prediction.total_us(float_nodes | {name}) - whole, 3) for name in work}


def predict(
    prepared: ir.Model, scheme: QuantScheme, costs: LayerCosts, samples: CalibrationSet, *, threads: int
) -> tuple[Prediction, dict[str, float]]:
    """What predicts this model's time, and the multiply-accumulates of each layer, in graph order."""
    placement = place(prepared.graph, scheme)
    work = macs(prepared, placement, samples, threads=threads)
    names = {str(value.name) for node in main_nodes(prepared.graph) for value in node.outputs}
    names = {name for name in placement.roots if name in names} | {str(value.name) for value in prepared.graph.inputs}
    names |= {
        str(value.name)
        for node in main_nodes(prepared.graph)
        if node.name in work
        for value in (node.inputs[0], node.outputs[0])
        if value is not None
    }
    batch = samples.rows(0, 1)
    sizes = values_per_run(prepared, Watched(names=(*sorted(names),), clamped={}), batch, threads=threads)
    return Prediction(prepared.graph, scheme, costs, work, sizes), work


def fastest_mix(prediction: Prediction, work: Mapping[str, float]) -> frozenset[str]:
    """The layers to leave float: grown from both ends of the graph inwards, then by single layers and their siblings.

    Args:
        prediction: What a choice takes.
        work: Multiply-accumulates of each layer, in graph order.
    """
    order = [*work]
    doubtful = sorted(
        (name for name in order if prediction.saving_us(name) < prediction.most_conversions_us(name)),
        key=lambda name: (prediction.saving_us(name), name),
    )
    moves = [frozenset(order[:count]) for count in range(1, _EDGE + 1)]
    moves += [frozenset(order[-count:]) for count in range(1, _EDGE + 1)]
    moves += [group for name in doubtful for group in (frozenset({name}), prediction.siblings(name))]
    most = _MOST * sum(work.values())
    chosen, best = frozenset[str](), prediction.total_us(())
    for _ in range(_PASSES):
        before = chosen
        for move in moves:
            wanted = chosen | move
            if wanted == chosen or sum(work[name] for name in wanted) > most:
                continue
            if (total := prediction.total_us(wanted)) < best * _GAIN:
                chosen, best = wanted, total
        if chosen == before:
            break
    return chosen


def _kind(node: ir.Node) -> Kind:
    weight = constant(node.inputs[1])
    assert weight is not None
    if node.op_type != "Conv":
        return "dense"
    if weight.shape[1] == 1:
        return "depthwise" if int_attribute(node, "group", 1) > 1 else "single"
    return "thin" if weight.shape[1] < THIN_CHANNELS else "dense"


def _read(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _is_image(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == _IMAGE_RANK


def _channels(value: ir.Value) -> int | None:
    if not _is_image(value) or value.shape is None:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None
