"""The one training loop, on Lightning Fabric: seeded, single precision, stops at the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.graph import flat_outputs, set_training
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch.fx import GraphModule

    from pipeline.data import Split

Loss = Callable[[Mapping[str, Tensor], Tensor, Sequence[Tensor]], Tensor]  # (inputs, labels, outputs) -> scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples per step; the last, smaller batch of an epoch is used too, unless it
            is a single sample of larger batches.
        optimizer: ``sgd`` with Nesterov momentum 0.9, or ``adamw``.
        learning_rate: Peak, reached after a linear warm-up of one tenth of the steps, then cosine down to zero.
        weight_decay: On weights of two or more dimensions; biases and normalisation are left alone.
        seed: Seed of the order of samples and of dropout.
        threads: torch threads. 1 and 2 give different weights, so the number is configuration.
    """

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """Figures of one epoch.

    Attributes:
        epoch: From 1.
        loss: Mean training loss.
        learning_rate: At the epoch's end.
        accuracy: The validation metric.
    """

    epoch: int
    loss: float
    learning_rate: float
    accuracy: float


def fit(
    graph: GraphModule,
    train: Split,
    loss: Loss,
    config: TrainConfig,
    *,
    validate: Callable[[GraphModule], float],
    on_epoch: Callable[[EpochResult], None],
) -> list[EpochResult]:
    """Trains ``graph`` in place and leaves it in evaluation mode.

    Args:
        graph: An exported graph (`pipeline.graph.trace`).
        train: Training samples with labels.
        loss: Loss of one batch.
        config: How to train.
        validate: Metric of the graph in evaluation mode, after each epoch.
        on_epoch: Called with each epoch's figures.

    Raises:
        InputError: The loss is NaN or infinite (names epoch and step), or nothing can be trained.
    """
    with _threads(config.threads):
        torch.manual_seed(config.seed)
        fabric = Fabric(accelerator="cpu", devices=1)
        wrapped, optimizer = fabric.setup(graph, _optimizer(graph, config))
        starts = _batch_starts(len(train), config.batch_size)
        steps = len(starts) * config.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, steps))
        order = np.random.default_rng(config.seed)
        results: list[EpochResult] = []
        for epoch in range(1, config.epochs + 1):
            set_training(graph, training=True)
            losses: list[float] = []
            shuffled = order.permutation(len(train))
            for start in starts:
                batch = train.take(shuffled[start : start + config.batch_size])
                assert batch.labels is not None
                inputs = _tensors(batch.inputs)
                value = loss(inputs, torch.from_numpy(batch.labels), flat_outputs(wrapped(*inputs.values())))
                losses.append(_finite(value, epoch, len(losses) + 1))
                optimizer.zero_grad()
                fabric.backward(value)
                optimizer.step()
                schedule.step()
            set_training(graph, training=False)
            result = EpochResult(
                epoch=epoch,
                loss=math.fsum(losses) / len(losses),
                learning_rate=float(schedule.get_last_lr()[0]),
                accuracy=validate(graph),
            )
            results.append(result)
            on_epoch(result)
    return results


def predict(graph: GraphModule, split: Split, *, threads: int, batch_size: int = 256) -> list[npt.NDArray[Any]]:
    """Outputs of ``graph`` in evaluation mode for all samples: one array ``(N, ...)`` per output."""
    set_training(graph, training=False)
    with _threads(threads), torch.no_grad():
        parts = [
            [output.numpy() for output in flat_outputs(graph(*_tensors(batch.inputs).values()))]
            for batch in split.batches(batch_size)
        ]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with ``count`` threads: the number is one for the whole process, so it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """The arrays as tensors; copied only where torch cannot share them (read-only, or flipped)."""
    return {name: torch.from_numpy(np.require(array, requirements=("C", "W"))) for name, array in arrays.items()}


def _optimizer(graph: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in graph.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError(
            "there is nothing to train",
            "no parameter of the model requires a gradient",
            "let the factory leave requires_grad on, or remove the training sections from the recipe",
        )
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)


def _warmup_cosine(step: int, steps: int) -> float:
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def _batch_starts(samples: int, batch_size: int) -> list[int]:
    """Where batches start; a last batch of one sample is dropped, since batch-norm has no statistics for it."""
    starts = list(range(0, samples, batch_size))
    return starts[:-1] if batch_size > 1 and len(starts) > 1 and samples - starts[-1] == 1 else starts


def _finite(loss: Tensor, epoch: int, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(
            f"the training loss became {value}",
            f"in epoch {epoch}, step {step}",
            "lower the section's learning_rate, or check the data for extreme values",
        )
    return value
