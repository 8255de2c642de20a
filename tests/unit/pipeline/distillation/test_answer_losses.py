"""Losses on answers: the formulas as the papers write them, in numpy and float64, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.distillation import Decoupled, SoftTargets, SquaredError
from pipeline.distillation.teachers import mean_answer
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.distillation import DistillLoss

Array = npt.NDArray[np.float64]
TEMPERATURES = st.floats(0.5, 20.0)
SEEDS = st.integers(0, 999)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    result: Array = powers / powers.sum(-1, keepdims=True)
    return result


def _kl(teacher: Array, student: Array) -> float:
    return float((teacher * (np.log(teacher) - np.log(student))).sum())


def _drawn(seed: int, *shape: int) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 3, (2, *shape))
    return student, teacher, random.integers(0, shape[1], (shape[0], *shape[2:]))


def _value(loss: DistillLoss, student: Array, teacher: Array, labels: npt.NDArray[Any]) -> float:
    return float(loss(torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(labels)))


@given(seed=SEEDS, alpha=st.floats(0, 1), temperature=TEMPERATURES)
@settings(deadline=None, max_examples=20)
def test_the_first_formula_holds_as_written(seed: int, alpha: float, temperature: float) -> None:
    """Promise: L = a * CE(y, student) + (1 - a) * T^2 * KL(softmax(t / T) || softmax(s / T)), to float64's digits."""
    student, teacher, labels = _drawn(seed, 6, 5)
    hard = -np.mean([np.log(_softmax(row)[label]) for row, label in zip(student, labels, strict=True)])
    soft = np.mean(
        [_kl(_softmax(t / temperature), _softmax(s / temperature)) for s, t in zip(student, teacher, strict=True)]
    )
    expected = alpha * hard + (1 - alpha) * temperature**2 * soft
    found = alpha * float(functional.cross_entropy(torch.from_numpy(student), torch.from_numpy(labels))) + (
        1 - alpha
    ) * _value(SoftTargets(temperature=temperature), student, teacher, labels)
    assert found == pytest.approx(float(expected), rel=1e-9)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_the_second_formula_holds_as_written(seed: int) -> None:
    """Promise: L = sum ||t - s||^2 over the batch, or its mean a sample; of any shape."""
    student, teacher, labels = _drawn(seed, 4, 3, 2)
    expected = sum(float(np.linalg.norm((t - s).ravel()) ** 2) for s, t in zip(student, teacher, strict=True))
    assert _value(SquaredError(over_batch="sum"), student, teacher, labels) == pytest.approx(expected, rel=1e-12)
    assert _value(SquaredError(), student, teacher, labels) == pytest.approx(expected / 4, rel=1e-12)
    moved = torch.from_numpy(student).requires_grad_()
    (gradient,) = torch.autograd.grad(SquaredError(over_batch="sum")(moved, torch.from_numpy(teacher), moved), moved)
    assert np.allclose(gradient.numpy(), 2 * (student - teacher))


@given(seed=SEEDS, temperature=TEMPERATURES, target=st.floats(0, 5), others=st.floats(0, 9))
@settings(deadline=None, max_examples=20)
def test_decoupled_is_the_papers_two_parts(seed: int, temperature: float, target: float, others: float) -> None:
    """Promise: DKD equals equation 7 computed sample by sample, right class against the rest, then among the rest."""
    student, teacher, labels = _drawn(seed, 5, 4)
    expected = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        p, q = _softmax(t / temperature), _softmax(s / temperature)
        rest = np.arange(4) != label
        pair_p, pair_q = np.array([p[label], p[rest].sum()]), np.array([q[label], q[rest].sum()])
        among = _kl(p[rest] / p[rest].sum(), q[rest] / q[rest].sum())
        expected += (target * _kl(pair_p, pair_q) + others * among) * temperature**2 / 5
    loss = Decoupled(temperature=temperature, target=target, others=others)
    assert _value(loss, student, teacher, labels) == pytest.approx(expected, rel=1e-7, abs=1e-10)


@given(seed=SEEDS, temperature=TEMPERATURES)
@settings(deadline=None, max_examples=15)
def test_decoupled_with_the_teachers_doubt_is_soft_targets(seed: int, temperature: float) -> None:
    """Promise: for one sample, target 1 and others 1 - p(right) give the plain divergence (equation 5)."""
    student, teacher, labels = _drawn(seed, 1, 6)
    doubt = 1 - _softmax(teacher[0] / temperature)[labels[0]]
    loss = Decoupled(temperature=temperature, target=1.0, others=float(doubt))
    expected = _value(SoftTargets(temperature=temperature), student, teacher, labels)
    assert _value(loss, student, teacher, labels) == pytest.approx(expected, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("loss", [SoftTargets(), Decoupled(), SquaredError(), SquaredError(over_batch="sum")])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
def test_gradients_are_those_of_finite_differences(loss: DistillLoss, shape: tuple[int, ...]) -> None:
    """Promise: what is trained by is the derivative of what is told."""
    student, teacher, labels = (torch.from_numpy(array) for array in _drawn(3, *shape))
    assert torch.autograd.gradcheck(lambda moved: loss(moved, teacher, labels), student.requires_grad_())


@pytest.mark.parametrize("loss", [SoftTargets(), Decoupled()])
def test_maps_of_class_scores_count_like_rows(loss: DistillLoss) -> None:
    """Promise: (N, C, H, W) is N * H * W answers; where classes lie elsewhere, the axis says so."""
    student, teacher, labels = _drawn(5, 3, 4, 2, 5)
    rows = [np.moveaxis(array, 1, -1).reshape(-1, 4) for array in (student, teacher)]
    expected = _value(loss, rows[0], rows[1], labels.ravel())
    assert _value(loss, student, teacher, labels) == pytest.approx(expected, rel=1e-12)
    if isinstance(loss, SoftTargets):
        last = [np.moveaxis(array, 1, -1).copy() for array in (student, teacher)]
        assert _value(SoftTargets(axis=-1), last[0], last[1], labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [SoftTargets(temperature=1.0), Decoupled(temperature=1.0)])
def test_extreme_answers_stay_finite(loss: DistillLoss) -> None:
    """Promise: nets that are sure of themselves do not overflow in float32, nor do their gradients."""
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(student, torch.tensor([[-1e4, 1e4, 0.0]]), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(value, student)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@given(seed=SEEDS, temperature=TEMPERATURES)
@settings(deadline=None, max_examples=15)
def test_several_teachers_are_averaged_as_said(seed: int, temperature: float) -> None:
    """Promise: as probabilities, the loss sees exactly the mean of the softened ones; as logits, their mean."""
    teachers = np.random.default_rng(seed).normal(0, 3, (3, 4, 5))
    tensors = [torch.from_numpy(array) for array in teachers]
    mean = mean_answer(tensors, average="probabilities", temperature=temperature, axis=1)
    expected = np.mean([_softmax(array / temperature) for array in teachers], axis=0)
    assert np.allclose(torch.softmax(mean / temperature, 1).numpy(), expected)
    logits = mean_answer(tensors, average="logits", temperature=temperature, axis=1)
    assert np.allclose(logits.numpy(), teachers.mean(0))


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "words"),
    [
        (SoftTargets(), (2, 10), (2, 12), ("(10,)", "(12,)")),
        (SquaredError(), (2, 10), (2, 10, 4), ("(10,)", "(10, 4)")),
        (SoftTargets(), (2, 1), (2, 1), ("at least 2 classes", "squared-error")),
        (SoftTargets(axis=3), (2, 4), (2, 4), ("axis 3",)),
        (SoftTargets(axis=0), (2, 4), (2, 4), ("axis 0",)),
        (Decoupled(), (2, 2), (2, 2), ("at least 3 classes",)),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(
    loss: DistillLoss, student: tuple[int, ...], teacher: tuple[int, ...], words: tuple[str, ...]
) -> None:
    """Promise: both shapes are told, before anything is trained."""
    with pytest.raises(InputError) as error:
        loss.check(torch.zeros(student), torch.zeros(teacher))
    assert all(word in str(error.value) for word in words)


def test_decoupled_needs_class_numbers() -> None:
    """Promise: shares of classes are refused with the reason, not read as numbers."""
    with pytest.raises(InputError, match="one class number"):
        Decoupled()(torch.zeros(2, 3), torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
