"""What a training knows of itself, to a checkpoint and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.training.checkpoints import Checkpoint
from pipeline.training.results import EpochResult

if TYPE_CHECKING:
    from pipeline.training.ema import Ema


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: Epochs done.
        step: Optimiser steps done.
        spent_s: Seconds that went before this process.
        curve: Figures of each epoch.
        best_epoch: The epoch with the best score, 0 for the start; None as long as none was looked at.
        best: Its score and its negative loss.
        best_weights: The model's state then.
    """

    epoch: int = 0
    step: int = 0
    spent_s: float = 0.0
    curve: list[EpochResult] = field(default_factory=list)
    best_epoch: int | None = None
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def consider(self, epoch: int, score: float, loss: float, model: nn.Module, ema: Ema | None) -> None:
        """Remembers the model as it is now if its score is the best so far; among equals the lower loss is."""
        if self.best_epoch is not None and (score, -loss) <= self.best:
            return
        self.best_epoch, self.best = epoch, (score, -loss)
        with nullcontext() if ema is None else ema.averaged():
            self.best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def restore_best(self, model: nn.Module) -> None:
        """Puts the remembered weights back."""
        model.load_state_dict(self.best_weights)


def checkpoint_of(
    progress: Progress,
    model: nn.Module,
    loss: object,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    generators: Tensor,
    after_step: object,
    *,
    spent_s: float,
) -> Checkpoint:
    """A training as it is after an epoch.

    Args:
        progress: How far it is.
        model: What learns.
        loss: Its own state is kept where it is a module.
        optimizer: With its moments.
        ema: Averaged weights, if any.
        generators: State of torch's random numbers, a row a process.
        after_step: Its state is kept where it has one.
        spent_s: Seconds so far.
    """
    moments = optimizer.state_dict()["state"]
    tensors = {
        **_named("model", model.state_dict()),
        **(_named("loss", loss.state_dict()) if isinstance(loss, nn.Module) else {}),
        **_named("best", progress.best_weights),
        **({} if ema is None else _named("ema", ema.state())),
        **{
            f"optimizer.{index}.{name}": value
            for index, values in moments.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        },
        "rng.torch": generators,
    }
    state = {
        "step": progress.step,
        "spent_s": round(spent_s, 3),
        "curve": [asdict(result) for result in progress.curve],
        "best_epoch": progress.best_epoch,
        "best": [_plain(value) for value in progress.best],
        "ema_steps": 0 if ema is None else ema.steps,
        "optimizer": {
            str(index): {name: value for name, value in values.items() if isinstance(value, int | float)}
            for index, values in moments.items()
        },
        "after_step": after_step.state_dict() if hasattr(after_step, "state_dict") else None,
    }
    return Checkpoint(epoch=progress.epoch, tensors=tensors, state=state)


def fits(
    found: Checkpoint,
    model: nn.Module,
    loss: object,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    *,
    processes: int,
) -> bool:
    """Whether a checkpoint is of this very training, so that `restore` can put all of it back.

    Nothing is changed: a checkpoint that does not fit must not leave half of itself in the model.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {
        **_named("model", model.state_dict()),
        **(_named("loss", loss.state_dict()) if isinstance(loss, nn.Module) else {}),
        **({} if ema is None else _named("ema", ema.state())),
        "rng.torch": torch.get_rng_state().expand(processes, -1),
    }
    best, moments = _group("best", found.tensors), _group("optimizer", found.tensors)
    rest = {name for name in found.tensors if not name.startswith(("best.", "optimizer."))}
    return (
        rest == wanted.keys()
        and all(_alike(found.tensors[name], tensor) for name, tensor in wanted.items())
        and (not best or _all_alike(best, model.state_dict()))
        and all(_is_moment(name, tensor, parameters) for name, tensor in moments.items())
        and _is_state(found, len(parameters), has_best=bool(best))
    )


def restore(
    found: Checkpoint,
    progress: Progress,
    model: nn.Module,
    loss: object,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    after_step: object,
) -> Tensor:
    """Puts a training back to where a checkpoint was made; the state of torch's random numbers, a row a process."""
    state = found.state
    model.load_state_dict(_group("model", found.tensors))
    if isinstance(loss, nn.Module):
        loss.load_state_dict(_group("loss", found.tensors))
    if ema is not None:
        ema.restore(_group("ema", found.tensors), state["ema_steps"])
    moments: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in state["optimizer"].items()}
    for name, tensor in _group("optimizer", found.tensors).items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if hasattr(after_step, "load_state_dict"):
        after_step.load_state_dict(state["after_step"])
    progress.epoch, progress.step, progress.spent_s = found.epoch, state["step"], state["spent_s"]
    progress.curve[:] = [EpochResult(**values) for values in state["curve"]]
    progress.best_epoch = state["best_epoch"]
    score, negative = (-math.inf if value is None else value for value in state["best"])
    progress.best = score, negative
    progress.best_weights = _group("best", found.tensors)
    return found.tensors["rng.torch"]


def _alike(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype


def _all_alike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(_alike(found[name], tensor) for name, tensor in wanted.items())


def _is_moment(name: str, tensor: Tensor, parameters: Sequence[Tensor]) -> bool:
    index, dot, _ = name.partition(".")
    if not dot or not index.isdecimal() or int(index) >= len(parameters):
        return False
    return tensor.dim() == 0 or tensor.shape == parameters[int(index)].shape


def _is_state(found: Checkpoint, parameters: int, *, has_best: bool) -> bool:
    state = found.state
    try:
        moments = {int(index): dict(values) for index, values in state["optimizer"].items()}
        curve = [EpochResult(**values) for values in state["curve"]]
        numbers = [
            state["step"],
            state["spent_s"],
            state["ema_steps"],
            *(v for m in moments.values() for v in m.values()),
        ]
        best = [number for number in (*state["best"], state["best_epoch"]) if number is not None]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return (
        "after_step" in state
        and all(isinstance(number, int | float) for number in (*numbers, *best))
        and all(0 <= index < parameters for index in moments)
        and [result.epoch for result in curve] == list(range(1, found.epoch + 1))
        and len(state["best"]) == len(Progress().best)
        and (has_best or state["best_epoch"] is None)
    )


def _plain(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _named(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{group}.{name}": tensor for name, tensor in tensors.items()}


def _group(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{group}."): tensor for name, tensor in tensors.items() if name.startswith(f"{group}.")}
