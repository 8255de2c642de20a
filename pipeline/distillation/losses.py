"""Distillation losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the batch.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2; the factor
    ``T^2`` keeps the gradient's size independent of ``T``.

    Args:
        student: Logits ``(N, classes)``, float.
        teacher: Logits ``(N, classes)``, float, without gradient.
        temperature: ``T``, above 0.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2
