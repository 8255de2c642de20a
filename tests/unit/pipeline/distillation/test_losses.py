"""The distillation loss is Hinton's formula, and its gradient that of cross-entropy against the teacher."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.distillation import soft_target_loss

TEMPERATURES = st.floats(0.5, 20.0)
SEEDS = st.integers(0, 999)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


@given(temperature=TEMPERATURES, seed=SEEDS, samples=st.integers(1, 5), classes=st.integers(2, 6))
@settings(deadline=None, max_examples=25)
def test_formula(temperature: float, seed: int, samples: int, classes: int) -> None:
    """T^2 * KL(teacher || student), averaged over the batch, equals numpy in float64."""
    student, teacher = np.random.default_rng(seed).normal(0, 5, (2, samples, classes))
    log_s, log_t = _log_softmax(student / temperature), _log_softmax(teacher / temperature)
    expected = temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(1).mean()
    found = soft_target_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert float(found) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(temperature=TEMPERATURES, seed=SEEDS)
@settings(deadline=None, max_examples=15)
def test_gradient_is_that_of_cross_entropy_against_the_teacher(temperature: float, seed: int) -> None:
    """Loss and T^2 * cross-entropy differ by the teacher's entropy, which has no gradient."""
    values, teacher = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (2, 4, 5)))
    one, two = values.clone().requires_grad_(), values.clone().requires_grad_()
    soft = functional.softmax(teacher / temperature, dim=1)
    loss = soft_target_loss(one, teacher, temperature)
    cross_entropy = temperature**2 * functional.cross_entropy(two / temperature, soft)
    (one_grad,) = torch.autograd.grad(loss, one)
    (two_grad,) = torch.autograd.grad(cross_entropy, two)
    entropy = temperature**2 * -(soft * soft.log()).sum(1).mean()
    assert torch.allclose(one_grad, two_grad, rtol=1e-10, atol=1e-12)
    assert float((cross_entropy - loss).detach()) == pytest.approx(float(entropy), rel=1e-9, abs=1e-9)
    assert float(entropy) > 0


def test_equal_logits_cost_nothing() -> None:
    """A perfect student has loss 0 and no gradient; a shift of all logits changes nothing."""
    teacher = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (4, 5)))
    student = (teacher + 7).requires_grad_()
    loss = soft_target_loss(student, teacher, 4.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-12


def test_extreme_logits_stay_finite() -> None:
    """Confident nets do not overflow in float32."""
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert torch.isfinite(soft_target_loss(student, teacher, 1.0))
