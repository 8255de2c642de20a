"""Quantisation-aware training: a Q/DQ file as a module that learns, and its loss against the float parent.

The training loop itself is not here: `pipeline.training.quantized` gives both to the one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.quantized import read_quantized
from calibration.torchexec import TorchGraph
from calibration.torchlearn import Trainable, float_parent, float_weights, shared_tensors
from targets.onnxfile import open_onnx

if TYPE_CHECKING:
    from pathlib import Path

LabelLoss = Callable[[Sequence[Tensor], Tensor], Tensor]
"""``(outputs, labels) -> scalar``."""

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSettings:
    """What a Q/DQ file learns for.

    Attributes:
        loss: ``mse`` relative squared error of every output, ``kl`` divergence of the class probabilities.
        temperature: Of both sides of ``kl``.
        inner_weight: Weight of the mean relative squared error over the inner tensors both graphs have.
        label_weight: Weight of the task's loss against labels, where there are any.
    """

    loss: Literal["mse", "kl"] = "mse"
    temperature: float = 1.0
    inner_weight: float = 1.0
    label_weight: float = 0.0


@final
class QuantizedStudent(nn.Module):
    """A Q/DQ file as a module: float32 master weights, biases and scales, quantised on the way through.

    In training mode its outputs are followed by the inner tensors that the float parent has too; gradients pass the
    rounding straight through.

    Args:
        float_model: The float ONNX file that the Q/DQ file was made from.
        quantized: The Q/DQ file.

    Raises:
        InputError: A node has no differentiable implementation.
    """

    def __init__(self, float_model: Path, quantized: Path) -> None:
        super().__init__()
        parent = float_parent(float_model)
        self._file = read_quantized(open_onnx(quantized))
        self._before = {node: self._file.array(stored.integers) for node, stored in self._file.weights.items()}
        self._inner = dict(shared_tensors(self._file, parent))
        self._parent = TorchGraph(parent)
        self.network = TorchGraph(self._file.model)
        self.learned = Trainable(self._file, float_weights(parent))
        self.inputs: Final = self.network.inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the file's order; in training mode the inner tensors after them."""
        wanted = [*self.network.outputs, *(self._inner.values() if self.training else ())]
        found = self.network(dict(zip(self.inputs, inputs, strict=True)), given=self.learned.values(), wanted=wanted)
        return tuple(found[name] for name in wanted)

    def exact(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What the float parent has in place of what `forward` gives in training mode."""
        with torch.no_grad():
            wanted = [*self._parent.outputs, *self._inner]
            found = self._parent(dict(zip(self.inputs, inputs.values(), strict=True)), wanted=wanted)
        return tuple(found[name] for name in wanted)

    @property
    def output_count(self) -> int:
        """How many of them are outputs."""
        return len(self.network.outputs)

    def parameter_groups(self, scale_ratio: float) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters and the factor of their learning rate: weights and biases 1, scales ``scale_ratio`` (0: fixed).

        Weights are in integer steps, biases in steps of the output's scale, scales as logarithms of a ratio.
        """
        learned = self.learned
        groups = [
            ([*learned.weights], 1.0),
            ([*learned.biases], 1.0),
            ([*learned.weight_scales, *learned.activation_scales], scale_ratio),
        ]
        return [(parameters, rate) for parameters, rate in groups if parameters and rate > 0.0]

    def write(self, out: Path) -> float:
        """Writes the file with what was learned, rounded; the share of weight integers that changed.

        Nodes, names and types stay as they are; only the numbers inside change.
        """
        self.learned.write()
        self._file.save(out)
        weights = self._file.weights.items()
        changed = sum(int((self._file.array(stored.integers) != self._before[node]).sum()) for node, stored in weights)
        return changed / sum(array.size for array in self._before.values())


@final
class DistillationLoss:
    """How far a student is from its float parent, and from the labels if they count.

    Args:
        student: Gives what the parent's tensors are.
        settings: What counts how much.
        label_loss: The task's loss; None where labels do not count.
    """

    def __init__(
        self, student: QuantizedStudent, settings: DistillationSettings, label_loss: LabelLoss | None = None
    ) -> None:
        self._student, self._settings, self._label_loss = student, settings, label_loss

    def __call__(self, inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The loss of one batch."""
        settings, count = self._settings, self._student.output_count
        exact = self._student.exact(inputs)
        parts = [_relative(mine, theirs) for mine, theirs in zip(outputs, exact, strict=True)]
        if settings.loss == "kl":
            parts[:count] = [
                _divergence(mine, theirs, settings.temperature)
                for mine, theirs in zip(outputs[:count], exact[:count], strict=True)
            ]
        total = torch.stack(parts[:count]).sum()
        if settings.inner_weight > 0.0 and parts[count:]:
            total = total + settings.inner_weight * torch.stack(parts[count:]).mean()
        if self._label_loss is not None and settings.label_weight > 0.0:
            total = total + settings.label_weight * self._label_loss(outputs[:count], labels)
        return total


def _relative(found: Tensor, exact: Tensor) -> Tensor:
    """Squared error over squared signal."""
    return (found.float() - exact).square().sum() / exact.square().sum().clamp_min(_TINY)


def _divergence(found: Tensor, exact: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the class probabilities, times the square of the temperature."""
    goal = torch.log_softmax(exact / temperature, dim=-1)
    mine = torch.log_softmax(found.float() / temperature, dim=-1)
    divergence = functional.kl_div(mine, goal, reduction="none", log_target=True).sum(dim=-1).mean()
    return divergence * temperature**2
