"""Learning-rate range test: which rate a training should start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from pipeline.graph import set_training
from pipeline.training.augmentation import check_augmentation
from pipeline.training.batches import parts_of, steps_of
from pipeline.training.hardware import make_fabric
from pipeline.training.optimizers import make_optimizer, parameter_groups
from pipeline.training.predicting import torch_threads
from pipeline.training.results import When
from pipeline.training.stepping import Loss, Stepper
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.training.config import TrainConfig

_LOW: Final = 1e-6
_HIGH: Final = 10.0
_STEPS: Final = 100
_SMOOTHING: Final = 0.9
_BROKEN: Final = 3.0
_BELOW: Final = 10.0
_SETTLED: Final = 10  # steps before which the average is that of few batches


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTest:
    """What a range test found.

    Attributes:
        learning_rate: A tenth of the rate at which the smoothed loss was lowest.
        rates: Of each step.
        losses: Smoothed, of each step.
    """

    learning_rate: float
    rates: Sequence[float]
    losses: Sequence[float]


@final
class _Rising:
    """A rate that rises geometrically over the steps of the test."""

    def rate(self, step: float) -> float:
        return float(_LOW * (_HIGH / _LOW) ** (step / (_STEPS - 1)))

    def momentum(self, step: float) -> float | None:
        del step
        return None


def find_learning_rate(model: nn.Module, train: Split, loss: Loss, config: TrainConfig) -> RangeTest:
    """Trains for a hundred steps at a rising rate and puts the model back (Smith, arXiv 1506.01186, section 3.3).

    The rate is a tenth of that with the lowest loss, the usual rule for where the loss still falls fast.

    Args:
        model: As for `pipeline.training.fit`; left as it came.
        train: Training samples with labels.
        loss: Loss of one batch; left as it came.
        config: How to train; its rate and schedule are not used.

    Raises:
        InputError: The loss is not finite at the lowest rate, or never falls.
    """
    if config.augment.random:
        check_augmentation(config.augment, train)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    own = {n: t.detach().clone() for n, t in loss.state_dict().items()} if isinstance(loss, nn.Module) else {}
    try:
        with torch_threads(config.threads):
            return _chosen(*_rise(model, train, loss, replace(config, learning_rate=1.0)))
    finally:
        model.to("cpu").load_state_dict(before)
        if isinstance(loss, nn.Module):
            loss.to("cpu").load_state_dict(own)


def _rise(model: nn.Module, train: Split, loss: Loss, config: TrainConfig) -> tuple[list[float], list[float]]:
    fabric = make_fabric(config)
    torch.manual_seed(config.seed + fabric.global_rank)
    groups = parameter_groups(model, loss, config)
    optimizer = make_optimizer(groups, config)
    stepper = Stepper(model, loss, groups, optimizer, fabric, train, config, _Rising())
    if isinstance(model, GraphModule):
        set_training(model, training=True, spare=config.scope.spares)
    else:
        model.train()
    generator = np.random.default_rng(config.seed)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    while len(rates) < _STEPS:
        order = generator.permutation(len(train))
        for step in steps_of(len(train), config.batch_size, config.accumulate)[: _STEPS - len(rates)]:
            parts = parts_of(step, order, rank=fabric.global_rank, world=fabric.world_size)
            number = len(rates) + 1
            try:
                found = stepper.run(parts, When(epoch=1, number=number, step=number, place=number - 1))
            except InputError:
                if number == 1:
                    raise
                return rates, losses
            average = _SMOOTHING * average + (1 - _SMOOTHING) * found.loss
            rates.append(found.learning_rate)
            losses.append(average / (1 - _SMOOTHING**number))
            if number > _SETTLED and losses[-1] > _BROKEN * min(losses[_SETTLED:]) + 1e-12:
                return rates, losses
    return rates, losses


def _chosen(rates: list[float], losses: list[float]) -> RangeTest:
    best = min(range(min(_SETTLED, len(losses) - 1), len(losses)), key=lambda index: losses[index])
    if best <= _SETTLED or not math.isfinite(losses[best]):
        raise InputError(
            "no learning rate was found",
            f"the loss rose from the first of {len(losses)} steps of the range test on",
            "give learning_rate as a number, or look at the samples and the loss",
        )
    return RangeTest(learning_rate=rates[best] / _BELOW, rates=tuple(rates), losses=tuple(losses))
