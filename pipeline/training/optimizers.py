"""Optimisers, the groups of parameters they work on, and what regularises the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that learn alike.

    Attributes:
        parameters: They.
        rate: Factor of the learning rate.
        decays: Whether L1 and L2 regularisation take part.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    decays: bool = False


def parameter_groups(model: nn.Module, loss: object, config: TrainConfig) -> list[ParameterGroup]:
    """The parameters that learn: weights of two or more dimensions decay, biases and normalisation do not.

    Args:
        model: The model; what does not require a gradient is left alone.
        loss: A loss that is a module has its parameters trained too.
        config: How to train.

    Raises:
        InputError: Nothing learns, or the scope names what is not there.
    """
    config.scope.check(model)
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        rate = config.scope.rate(name)
        seen.add(id(parameter))
        if parameter.requires_grad and rate > 0.0:
            found.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    if not found:
        raise InputError(
            "there is nothing to train",
            "no parameter of the model requires a gradient"
            if not any(p.requires_grad for p in model.parameters())
            else "train_only and rates freeze every parameter",
            "let the factory leave requires_grad on, widen train_only, or remove the training sections from the recipe",
        )
    if isinstance(loss, nn.Module):
        for parameter in loss.parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                found.setdefault((1.0, parameter.ndim > 1), []).append(parameter)
    order = sorted(found, key=lambda key: (-key[0], not key[1]))
    return [ParameterGroup(parameters=found[key], rate=key[0], decays=key[1]) for key in order]


def make_optimizer(groups: Sequence[ParameterGroup], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser; each group remembers its ``factor`` of the rate.

    ``sgd``: with momentum, Nesterov's or not (Sutskever et al., ICML 2013, section 2). ``adam``: Kingma and Ba, arXiv
    1412.6980, decay as an L2 penalty in the gradient. ``adamw``: decay apart from the gradient (Loshchilov and Hutter,
    arXiv 1711.05101, algorithm 2).
    """
    listed: list[dict[str, Any]] = [
        {
            "params": list(group.parameters),
            "weight_decay": config.weight_decay if group.decays else 0.0,
            "lr": config.learning_rate * group.rate,
            "factor": group.rate,
        }
        for group in groups
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(listed, lr=config.learning_rate)
    if config.optimizer == "adam":
        return torch.optim.Adam(listed, lr=config.learning_rate)
    nesterov = config.nesterov and config.momentum > 0.0
    return torch.optim.SGD(listed, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)


def set_rates(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None) -> None:
    """Sets the learning rate of every group by its factor, and the momentum (Adam's first beta) where one is given."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None:
            group["momentum"] = momentum


@torch.no_grad()
def add_l1(groups: Sequence[ParameterGroup], strength: float) -> None:
    """Adds the gradient of ``strength * sum |w|`` over the weights that decay."""
    for group in groups:
        for parameter in group.parameters if group.decays else ():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=strength)
