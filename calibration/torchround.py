"""The variables of learned rounding: rectified sigmoids over integers, offsets of biases, logarithms of scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.quantized import QuantizedGraph, StoredQ, broadcast_shape
from calibration.torchlearn import bias_unit, float_bounds, hold_zeros, master_weight

if TYPE_CHECKING:
    from calibration.torchexec import TorchGraph

Array = NDArray[np.generic]
Values = dict[str, Tensor]

_STRETCH: Final = (-0.1, 1.1)
"""zeta and gamma of the rectified sigmoid: Nagel et al., arXiv 2004.10568, eq. 23."""

_BETA: Final = (20.0, 2.0)
_WARM: Final = 0.2
_HALF: Final = 0.5
_BIAS_RATE: Final = 1.0
_SCALE_RATE: Final = 0.2


@final
class RoundingVariables:
    """What is learned of one block: the rounding of its weights, and where asked biases and activation scales.

    Args:
        graph: The Q/DQ model.
        stored: The weights.
        weights: Float weights by name.
        biases: Nodes whose biases are learned along.
        scales: Scale initializers that are learned along.
    """

    def __init__(
        self,
        graph: QuantizedGraph,
        stored: Sequence[StoredQ],
        weights: Mapping[str, Array],
        *,
        biases: Sequence[str],
        scales: Sequence[str],
    ) -> None:
        self._graph = graph
        self._stored = [*{weight.integers: weight for weight in stored}.values()]
        exact = [torch.from_numpy(master_weight(graph, stored, weights)) for stored in self._stored]
        self._bounds = [float_bounds(graph, stored) for stored in self._stored]
        self._floor = [torch.floor(steps) for steps in exact]
        self._rounding = [
            _logit(steps - floor).requires_grad_() for steps, floor in zip(exact, self._floor, strict=True)
        ]
        for rounding, weight in zip(self._rounding, self._stored, strict=True):
            hold_zeros(rounding, weight, weights)
        self._bias_start = {node: torch.from_numpy(graph.bias_values(node)).float() for node in biases}
        self._bias_unit = {node: bias_unit(graph, node) for node in biases}
        self._biases = {node: torch.zeros_like(value, requires_grad=True) for node, value in self._bias_start.items()}
        self._scale_start = {name: torch.from_numpy(graph.array(name)) for name in scales}
        self._scales = {name: torch.zeros_like(value, requires_grad=True) for name, value in self._scale_start.items()}

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameter groups with their learning rates."""
        return [
            {"params": parameters, "lr": lr}
            for parameters, lr in (
                (self._rounding, rate),
                ([*self._biases.values()], rate * _BIAS_RATE),
                ([*self._scales.values()], rate * _SCALE_RATE),
            )
            if parameters
        ]

    def soft(self) -> Values:
        """Dequantised weights with the rounding still open, and what else is learned."""
        return self._values([*map(share_up, self._rounding)])

    @torch.no_grad()
    def rounded(self) -> Values:
        """The same, decided."""
        return self._values([(share_up(v) >= _HALF).float() for v in self._rounding])

    def undecided(self, done: float) -> Tensor:
        """The regulariser: sum of 1 - |2h - 1|^beta, beta falling; nothing during the warm-up."""
        if done < _WARM:
            return torch.zeros(())
        share = (done - _WARM) / (1.0 - _WARM)
        beta = _BETA[1] + 0.5 * (_BETA[0] - _BETA[1]) * (1.0 + math.cos(math.pi * share))
        total = max(sum(v.numel() for v in self._rounding), 1)
        parts = [(1.0 - (2.0 * share_up(v) - 1.0).abs().pow(beta)).sum() for v in self._rounding]
        return torch.stack(parts).sum() / total if parts else torch.zeros(())

    @torch.no_grad()
    def write(self, running: TorchGraph) -> float:
        """Writes what was learned into the file and the running model; the share of integers that moved."""
        moved = size = 0
        changed: list[str] = []
        for stored, floor, v, bounds in zip(self._stored, self._floor, self._rounding, self._bounds, strict=True):
            integers = (floor + (share_up(v) >= _HALF)).clamp(*bounds).numpy()
            moved += int((self._graph.array(stored.integers) != integers).sum())
            size += integers.size
            self._graph.write_integers(stored.integers, integers)
            changed.append(stored.integers)
        for name, log in self._scales.items():
            self._graph.write_scale(name, (self._scale_start[name] * torch.exp(log)).numpy())
            changed.append(name)
        for node, offset in self._biases.items():
            self._graph.write_bias(node, self._bias(node, offset).double().numpy())
        for bias in self._graph.biases.values():
            changed += [name for name in (bias.values, bias.scale) if name is not None]
        for name in changed:
            running.parameter(name).copy_(torch.from_numpy(self._graph.array(name)))
        return moved / max(size, 1)

    def _values(self, shares: Sequence[Tensor]) -> Values:
        found = {name: self._scale_start[name] * torch.exp(log) for name, log in self._scales.items()}
        for stored, floor, share, bounds in zip(self._stored, self._floor, shares, self._bounds, strict=True):
            scale = torch.from_numpy(self._graph.array(stored.scale)).reshape(broadcast_shape(floor.ndim, stored.axis))
            found[stored.dequantized] = (floor + share).clamp(*bounds) * scale
        for node, offset in self._biases.items():
            found[self._graph.biases[node].dequantized] = self._bias(node, offset)
        return found

    def _bias(self, node: str, offset: Tensor) -> Tensor:
        return self._bias_start[node] + offset * self._bias_unit[node]


def _logit(share: Tensor) -> Tensor:
    """The variable whose rectified sigmoid is ``share``."""
    low, high = _STRETCH
    inner = (share - low) / (high - low)
    return torch.log(inner / (1.0 - inner))


def share_up(variable: Tensor) -> Tensor:
    """The rectified sigmoid: 0 rounds down, 1 rounds up."""
    low, high = _STRETCH
    return (torch.sigmoid(variable) * (high - low) + low).clamp(0.0, 1.0)
