"""Weights averaged over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn


@final
class Ema:
    """Exponential moving average of everything floating in a model's state (Polyak and Juditsky, SIAM 30(4), 1992).

    The decay starts low, ``(1 + t) / (10 + t)`` after ``t`` steps, so that the first weights are soon forgotten.

    Args:
        model: Whose weights are averaged, as they are now.
        decay: The largest; 0.999 remembers about a thousand steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.steps = 0
        self._average = {name: tensor.detach().clone() for name, tensor in _floating(model).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights as they are now."""
        self.steps += 1
        weight = 1.0 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        current = _floating(self._model)
        torch._foreach_lerp_([*self._average.values()], [current[name] for name in self._average], weight)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with the averaged weights."""
        own = {name: tensor.detach().clone() for name, tensor in _floating(self._model).items()}
        self.apply()
        try:
            yield
        finally:
            _copy(own, self._model)

    def apply(self) -> None:
        """Puts the averaged weights into the model."""
        _copy(self._average, self._model)

    def state(self) -> dict[str, Tensor]:
        """The averages by name."""
        return self._average

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Goes on from ``state`` after ``steps`` steps."""
        self.steps = steps
        for name, tensor in self._average.items():
            tensor.copy_(state[name])


def _floating(model: nn.Module) -> dict[str, Tensor]:
    seen: Final[set[int]] = set()
    found = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found[name] = tensor
    return found


@torch.no_grad()
def _copy(state: Mapping[str, Tensor], model: nn.Module) -> None:
    own = _floating(model)
    for name, tensor in state.items():
        own[name].copy_(tensor)
