"""Gradients held within bounds, and looked at before weights follow them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together; NaN or infinite as soon as one of them is."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())


def clip_gradients(
    parameters: Sequence[nn.Parameter], norm: Tensor, *, max_norm: float | None, max_value: float | None
) -> None:
    """Scales all gradients together, or cuts each number of them (Pascanu et al., arXiv 1211.5063, algorithm 1).

    Args:
        parameters: What learns.
        norm: Of their gradients, from `gradient_norm`.
        max_norm: Of all together; None for no such bound.
        max_value: Of each number; None for no such bound.
    """
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    if max_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, max_value)
