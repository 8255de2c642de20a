"""The one training loop, on Lightning Fabric: seeded, single precision, stops at the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.fx import GraphModule

from pipeline.graph import flat_outputs, set_training
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.data import Split
    from pipeline.training.config import TrainConfig

Loss = Callable[[Mapping[str, Tensor], Tensor, Sequence[Tensor]], Tensor]
"""``(inputs, labels, outputs) -> scalar``; an nn.Module whose own parameters are trained with the model's, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """Figures of one epoch.

    Attributes:
        epoch: From 1.
        loss: Mean training loss.
        learning_rate: At the epoch's end.
        score: What ``validate`` gave, higher is better.
    """

    epoch: int
    loss: float
    learning_rate: float
    score: float


def fit(
    model: nn.Module,
    train: Split,
    loss: Loss,
    config: TrainConfig,
    *,
    validate: Callable[[Any], float],
    on_epoch: Callable[[EpochResult], None],
    after_step: Callable[[], None] | None = None,
) -> list[EpochResult]:
    """Trains ``model`` in place and leaves it in evaluation mode.

    Args:
        model: An exported graph (`pipeline.graph.trace`), or any module that takes the inputs in order.
        train: Training samples with labels.
        loss: Loss of one batch; one that is a module has its parameters trained too, and is left changed.
        config: How to train.
        validate: Any score of the model in evaluation mode, higher is better; after each epoch.
        on_epoch: Called with each epoch's figures.
        after_step: Called after every step of the optimiser (to put masks back on weights, say).

    Raises:
        InputError: The loss is NaN or infinite (names epoch and step), or nothing can be trained.
    """
    with _threads(config.threads):
        torch.manual_seed(config.seed)
        fabric = Fabric(accelerator="cpu", devices=1)
        wrapped, optimizer = fabric.setup(model, _optimizer(model, loss, config))
        starts = _batch_starts(len(train), config.batch_size)
        steps = len(starts) * config.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, steps))
        order = np.random.default_rng(config.seed)
        results: list[EpochResult] = []
        for epoch in range(1, config.epochs + 1):
            _set_training(model, training=True)
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
                if after_step is not None:
                    after_step()
            _set_training(model, training=False)
            result = EpochResult(
                epoch=epoch,
                loss=math.fsum(losses) / len(losses),
                learning_rate=float(schedule.get_last_lr()[0]),
                score=validate(model),
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


def _set_training(model: nn.Module, *, training: bool) -> None:
    """Of an exported graph by its operators, which know nothing of `Module.train`; of any other module by that."""
    if isinstance(model, GraphModule):
        set_training(model, training=training)
    else:
        model.train(training)


def _optimizer(model: nn.Module, loss: Loss, config: TrainConfig) -> torch.optim.Optimizer:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    beside = (
        [parameter for parameter in loss.parameters() if parameter.requires_grad] if isinstance(loss, nn.Module) else []
    )
    known = {id(parameter) for parameter in learned}
    parameters = [*learned, *(parameter for parameter in beside if id(parameter) not in known)]
    if not learned:
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
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.learning_rate)
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
