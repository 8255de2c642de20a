"""One optimiser step: samples in, gradients of all their batches, and weights that follow only what is finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.graph import flat_outputs
from pipeline.training.augmentation import augmented, mixed
from pipeline.training.batches import Part, tensor, tensors
from pipeline.training.clipping import clip_gradients, gradient_norm
from pipeline.training.diagnosis import stop_for_gradient, stop_for_loss
from pipeline.training.optimizers import ParameterGroup, add_l1, set_rates
from pipeline.training.results import StepResult, When

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from pipeline.data import Split
    from pipeline.training.config import TrainConfig
    from pipeline.training.schedules import Rates

Loss = Callable[[Mapping[str, Tensor], Tensor, Sequence[Tensor]], Tensor]
"""``(inputs, labels, outputs) -> scalar``; an nn.Module whose own parameters are trained with the model's, too."""


@final
class Stepper:
    """Makes the steps of one training.

    Args:
        model: What learns.
        loss: Of one batch.
        groups: Its parameters.
        optimizer: Over these groups, in their order.
        fabric: Launched.
        train: Training samples.
        config: How to train.
        course: The schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        groups: Sequence[ParameterGroup],
        optimizer: torch.optim.Optimizer,
        fabric: Fabric,
        train: Split,
        config: TrainConfig,
        course: Rates,
    ) -> None:
        self._model, self._groups, self._optimizer = model, groups, optimizer
        self._fabric, self._train, self._config, self._course = fabric, train, config, course
        self._parameters = [parameter for group in groups for parameter in group.parameters]
        self._wrapped, self._stepping = fabric.setup(model, optimizer)
        own = isinstance(loss, nn.Module) and any(True for _ in loss.parameters())
        if isinstance(loss, nn.Module):
            loss.to(fabric.device)
        self._loss: Loss = fabric.setup_module(loss) if own and fabric.world_size > 1 else loss  # type: ignore[arg-type]

    def run(self, parts: Sequence[Part], when: When) -> StepResult:
        """One step.

        Args:
            parts: This process's samples, batch by batch.
            when: It is.

        Raises:
            InputError: Loss or gradient is not finite; the weights are as before.
        """
        config = self._config
        rate = config.learning_rate * self._course.rate(when.place)
        set_rates(self._optimizer, rate, self._course.momentum(when.place))
        self._stepping.zero_grad()
        total = math.fsum([self._backward(part, when, index) for index, part in enumerate(parts)])
        norm = self._regularised(parts[-1], when)
        self._stepping.step()
        return StepResult(epoch=when.epoch, step=when.step, loss=total, learning_rate=rate, gradient_norm=norm)

    def _backward(self, part: Part, when: When, index: int) -> float:
        """Adds a batch's gradients; its share of the step's loss, over all processes."""
        batch = self._train.take(part.rows)
        chance = np.random.default_rng([self._config.seed, self._fabric.global_rank, when.step, index])
        inputs, labels = self._changed(batch, chance)
        given, other, share = mixed(self._config.augment, tensors(inputs, self._fabric.device), chance)
        wanted = tensor(labels, self._fabric.device)
        outputs = flat_outputs(self._wrapped(*given.values()))
        loss = self._loss(given, wanted, outputs)
        if other is not None:
            loss = share * loss + (1.0 - share) * self._loss(given, wanted[other], outputs)
        loss = loss * part.weight
        value = self._mean(loss.detach())
        if not math.isfinite(value):
            stop_for_loss(value, self._model, [*given.values()], part.rows, when)
        self._fabric.backward(loss)
        return value

    def _changed(self, batch: Split, chance: np.random.Generator) -> tuple[Mapping[str, Any], Any]:
        if self._config.augment.random:
            inputs, labels = augmented(self._config.augment, batch, chance)
        else:
            inputs, labels = dict(batch.inputs), batch.labels
        return inputs, np.zeros(len(batch), np.int64) if labels is None else labels

    def _mean(self, value: Tensor) -> float:
        if self._fabric.world_size == 1:
            return float(value)
        reduced = self._fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return float(reduced)

    def _regularised(self, part: Part, when: When) -> float | None:
        """L1 and clipping; the norm of the gradients before it."""
        config = self._config
        scaled = config.precision == "fp16"
        if scaled:  # steps whose gradient is not finite are left out by the scaler, as they must be
            self._fabric.strategy.precision.unscale_gradients(self._optimizer)
        if config.l1:
            add_l1(self._groups, config.l1)
        norm = gradient_norm(self._parameters)
        if not scaled and not math.isfinite(float(norm)):
            stop_for_gradient(self._model, part.rows, when)
        clip_gradients(self._parameters, norm, max_norm=config.clip_norm, max_value=config.clip_value)
        return None if scaled else float(norm)
