"""The trainable form of a Q/DQ model: float32 master weights, biases and scales, and their way back into the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.numerics import MIN_SCALE
from calibration.prepare import prepare, serialize
from calibration.quantized import QuantizedGraph, StoredQ, broadcast_shape
from calibration.torchops_quant import fake_quantise
from targets.onnxfile import open_onnx

if TYPE_CHECKING:
    from pathlib import Path

Array = NDArray[np.generic]
Floats = NDArray[np.float32]


@final
class Trainable(nn.Module):
    """Parameters of a Q/DQ model, each in the unit in which it is quantised, so that one learning rate fits all layers.

    Weights are held in integer steps, biases as offsets in steps of the output's scale, scales as logarithms of their
    ratio to what the file holds.

    Args:
        graph: The Q/DQ model.
        weights: Float weights by name; the quantised weights start from them where the file's integers allow it.
    """

    def __init__(self, graph: QuantizedGraph, weights: Mapping[str, Array]) -> None:
        super().__init__()
        self._graph, self._stored = graph, [*graph.stored_weights().values()]
        self._start = {name: torch.from_numpy(graph.array(name)) for name in _scales(graph)}
        self._bias_start = {node: torch.from_numpy(graph.bias_values(node)).float() for node in graph.biases}
        self._bias_unit = {node: bias_unit(graph, node) for node in graph.biases}
        self.weights = nn.ParameterList(
            torch.from_numpy(master_weight(graph, stored, weights)) for stored in self._stored
        )
        for steps, stored in zip(self.weights, self._stored, strict=True):
            hold_zeros(steps, stored, weights)
        self.biases = nn.ParameterList(torch.zeros_like(bias) for bias in self._bias_start.values())
        self._bounds = [float_bounds(graph, stored) for stored in self._stored]
        self.weight_scales = nn.ParameterList(torch.zeros_like(self._start[stored.scale]) for stored in self._stored)
        self.activation_scales = nn.ParameterList(torch.zeros_like(self._start[name]) for name in graph.groups)

    def values(self) -> dict[str, Tensor]:
        """What the graph reads now: dequantised weights, biases, activation scales; differentiable."""
        found = {
            name: self._start[name] * torch.exp(log * (name not in self._graph.fixed))
            for name, log in zip(self._graph.groups, self.activation_scales, strict=True)
        }
        learned = zip(self._stored, self.weights, self.weight_scales, self._bounds, strict=True)
        for weight, steps, log, (low, high) in learned:
            shape = broadcast_shape(steps.ndim, weight.axis)
            ratio, start = torch.exp(log).reshape(shape), self._start[weight.scale].reshape(shape)
            found[weight.dequantized] = fake_quantise(steps, ratio, torch.zeros(()), low, high) * start
        for (node, bias), offset in zip(self._graph.biases.items(), self.biases, strict=True):
            found[bias.dequantized] = self._bias(node, offset)
        return found

    @torch.no_grad()
    def write(self) -> None:
        """Rounds everything into the model: scales, integers of weights, biases."""
        graph = self._graph
        for name, log in zip(graph.groups, self.activation_scales, strict=True):
            graph.write_scale(name, self._scale(name, log))
        learned = zip(self._stored, self.weights, self.weight_scales, self._bounds, strict=True)
        for weight, steps, log, (low, high) in learned:
            ratio = torch.exp(log).reshape(broadcast_shape(steps.ndim, weight.axis))
            integers = torch.round(steps / ratio).clamp(low, high)
            graph.write_integers(weight.integers, integers.numpy())
            graph.write_scale(weight.scale, self._scale(weight.scale, log))
        for node, offset in zip(graph.biases, self.biases, strict=True):
            graph.write_bias(node, self._bias(node, offset).double().numpy())

    def _scale(self, name: str, log: Tensor) -> Array:
        return (self._start[name] * torch.exp(log)).clamp_min(MIN_SCALE * 1.001).numpy()

    def _bias(self, node: str, offset: Tensor) -> Tensor:
        return self._bias_start[node] + offset * self._bias_unit[node]


def float_parent(path: Path) -> onnx.ModelProto:
    """The prepared float graph, whose tensors have the names that the Q/DQ graph uses."""
    return onnx.load_from_string(serialize(prepare(open_onnx(path))))


def float_weights(parent: onnx.ModelProto) -> dict[str, Array]:
    """Float initializers by name."""
    return {
        tensor.name: np.array(onnx.numpy_helper.to_array(tensor))
        for tensor in parent.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def master_weight(graph: QuantizedGraph, stored: StoredQ, weights: Mapping[str, Array]) -> Floats:
    """A weight in integer steps: the float weight, held to what rounds to the file's integers.

    So earlier steps that moved integers are kept, and rounding it gives the file back.
    """
    integers = graph.array(stored.integers).astype(np.float32)
    source = weights.get(stored.source)
    if source is None or source.shape != integers.shape:
        return integers
    shape = broadcast_shape(integers.ndim, stored.axis)
    exact = source.astype(np.float32) / graph.array(stored.scale).astype(np.float32).reshape(shape)
    return np.asarray(np.clip(exact, integers - np.float32(0.499), integers + np.float32(0.499)), np.float32)


def float_bounds(graph: QuantizedGraph, stored: StoredQ) -> tuple[Tensor, Tensor]:
    """How low and how high a weight's integers may go, as float32."""
    low, high = (torch.from_numpy(bound.astype(np.float32)) for bound in graph.bounds(stored))
    return low, high


def hold_zeros(learned: Tensor, stored: StoredQ, weights: Mapping[str, Array]) -> None:
    """Weights that are exactly zero in the float model have no gradient, so they stay zero: sparse stays sparse."""
    source = weights.get(stored.source)
    if source is not None and source.shape == learned.shape and not source.all():
        kept = torch.from_numpy(source != 0)
        learned.register_hook(lambda gradient: gradient * kept)  # type: ignore[no-untyped-call]


def shared_tensors(graph: QuantizedGraph, parent: onnx.ModelProto) -> dict[str, str]:
    """Inner activations both graphs have: tensor of the float graph -> its reading in the Q/DQ graph."""
    made = {name for node in parent.graph.node for name in node.output}
    return {
        tensor: activation.dequantized[0]
        for tensor, activation in graph.activations.items()
        if tensor in made and activation.dequantized and tensor != activation.dequantized[0]
    }


def bias_unit(graph: QuantizedGraph, node: str) -> float:
    """About one step of the node's output: the step of its input times the mean norm of the weight's channels."""
    bias, stored = graph.biases[node], graph.weights[node]
    weight = graph.weight_values(node).astype(np.float64)
    channels = np.moveaxis(weight, stored.axis or 0, 0).reshape(weight.shape[stored.axis or 0], -1)
    step = float(graph.array(bias.input_scale)) if bias.input_scale is not None else 1.0 / 128.0
    return step * float(np.sqrt((channels**2).sum(axis=1)).mean())


def to_tensors(feeds: Mapping[str, Array]) -> dict[str, Tensor]:
    """Arrays as tensors; copied only where torch cannot share them."""
    return {name: torch.from_numpy(np.require(array, requirements=("C", "W"))) for name, array in feeds.items()}


@contextmanager
def torch_threads(count: int, seed: int) -> Iterator[None]:
    """Seeded torch with ``count`` threads; both belong to the whole process, so they are put back."""
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(count)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(state)


def _scales(graph: QuantizedGraph) -> list[str]:
    return [*graph.groups, *(stored.scale for stored in graph.weights.values())]


def progress_ratio(step: int, steps: int, spent_s: float, budget_s: float | None) -> float:
    """How far a schedule is, 0 to 1; the clock counts only once half of the time is gone.

    So two runs that end well within their budget take the same steps at the same rates and give the same bytes.

    Args:
        step: Steps done.
        steps: Steps planned.
        spent_s: Time used.
        budget_s: Time allowed; None for no limit.
    """
    clock = 0.0 if budget_s is None else 2.0 * spent_s / max(budget_s, 1e-9) - 1.0
    return max(step / steps, clock)
