"""Losses on features and relations: against loops in numpy, their invariances, and what they refuse."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.distillation import (
    AttentionTransfer,
    Hint,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.distillation import DistillLoss

Array = npt.NDArray[np.float64]
SEEDS = st.integers(0, 999)
RELATIONS = [RelationalDistance(), RelationalAngle(), SimilarityPreserving()]


def _drawn(seed: int, student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.normal(1, 2, student), random.normal(-1, 3, teacher)


def _value(loss: DistillLoss, student: Array, teacher: Array) -> float:
    one, other = torch.from_numpy(student), torch.from_numpy(teacher)
    loss.check(one, other)
    return float(loss.double()(one, other, torch.zeros(len(one))).detach())


def _huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


@given(seed=SEEDS, samples=st.integers(2, 6))
@settings(deadline=None, max_examples=10)
def test_distances_are_the_papers(seed: int, samples: int) -> None:
    """Promise: Huber of all pairs' distances in units of their mean (RKD, equations 5 to 8); widths may differ."""
    student, teacher = _drawn(seed, (samples, 3, 2), (samples, 7))

    def distances(features: Array) -> list[float]:
        rows = features.reshape(samples, -1)
        found = [float(np.linalg.norm(rows[i] - rows[j])) for i, j in itertools.permutations(range(samples), 2)]
        return [distance / np.mean(found) for distance in found]

    pairs = zip(distances(student), distances(teacher), strict=True)
    expected = np.mean([_huber(s - t) for s, t in pairs])
    assert _value(RelationalDistance(), student, teacher) == pytest.approx(float(expected), rel=1e-9)


@given(seed=SEEDS, samples=st.integers(3, 6))
@settings(deadline=None, max_examples=10)
def test_angles_are_the_papers(seed: int, samples: int) -> None:
    """Promise: Huber of the cosines at j between i and k, over all triples (RKD, equations 9 and 10)."""
    student, teacher = _drawn(seed, (samples, 5), (samples, 2, 4))

    def cosines(features: Array) -> list[float]:
        rows = features.reshape(samples, -1)
        found = []
        for i, j, k in itertools.permutations(range(samples), 3):
            one, other = rows[i] - rows[j], rows[k] - rows[j]
            found.append(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
        return found

    expected = np.mean([_huber(s - t) for s, t in zip(cosines(student), cosines(teacher), strict=True)])
    assert _value(RelationalAngle(), student, teacher) == pytest.approx(float(expected), rel=1e-8, abs=1e-12)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_similarities_are_the_papers(seed: int) -> None:
    """Promise: rows of A A^T brought to length 1, squared differences over N^2 (SP, equations 1 to 4)."""
    student, teacher = _drawn(seed, (4, 3, 2), (4, 5))

    def table(features: Array) -> Array:
        rows = features.reshape(4, -1)
        products: Array = rows @ rows.T
        result: Array = products / np.linalg.norm(products, axis=1, keepdims=True)
        return result

    expected = np.square(np.linalg.norm(table(student) - table(teacher))) / 4**2
    assert _value(SimilarityPreserving(), student, teacher) == pytest.approx(float(expected), rel=1e-10)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_attention_is_the_papers(seed: int) -> None:
    """Promise: squared distance of the normalised sums of squares over channels (AT, equation 2, p = 2)."""
    student, teacher = _drawn(seed, (3, 2, 4, 5), (3, 7, 4, 5))
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        maps = [np.square(one).sum(0).ravel() for one in (s, t)]
        units = [one / np.linalg.norm(one) for one in maps]
        expected += float(np.square(units[0] - units[1]).sum()) / 3
    assert _value(AttentionTransfer(), student, teacher) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("student", "teacher", "axis", "kind"),
    [
        ((3, 4), (3, 6), None, nn.Linear),
        ((3, 4, 5), (3, 6, 5), None, nn.Conv1d),
        ((3, 5, 4), (3, 5, 6), None, nn.Linear),
        ((3, 4, 5, 5), (3, 6, 5, 5), None, nn.Conv2d),
        ((3, 5, 5, 4), (3, 5, 5, 6), None, nn.Linear),
        ((3, 4, 2, 2, 2), (3, 6, 2, 2, 2), None, nn.Conv3d),
        ((3, 4, 4), (3, 6, 4), 1, nn.Conv1d),
        ((3, 5, 5, 4), (3, 5, 5, 6), -1, nn.Linear),
        ((3, 4, 5, 5), (3, 4, 5, 5), None, nn.Identity),
    ],
)
def test_hints_are_projected_in_each_layout(
    student: tuple[int, ...], teacher: tuple[int, ...], axis: int | None, kind: type[nn.Module]
) -> None:
    """Promise: the mean squared error to the teacher after one learned map of the channels (FitNets, equation 3)."""
    one, other = _drawn(1, student, teacher)
    loss = Hint(axis=axis)
    found = _value(loss, one, other)
    assert type(loss.projection) is kind
    where = 1 if kind in {nn.Conv1d, nn.Conv2d, nn.Conv3d} else len(student) - 1
    moved = np.moveaxis(one, where, -1)
    if kind is not nn.Identity:
        weight, bias = (parameter.detach().numpy() for parameter in loss.projection.parameters())
        moved = moved @ weight.reshape(6, 4).T + bias
        assert all(parameter.requires_grad for parameter in loss.parameters())
    expected = np.square(np.moveaxis(moved, -1, where) - other).mean()
    assert found == pytest.approx(float(expected), rel=1e-10)


def test_a_projection_learns_what_the_student_lacks() -> None:
    """Promise: the projection's parameters are the loss' own, and training them alone lowers it."""
    torch.manual_seed(0)
    teacher = torch.randn(64, 6)
    student = teacher @ torch.randn(6, 4)
    loss = Hint()
    loss.check(student, teacher)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.02)
    values = []
    for _ in range(200):
        value = loss(student, teacher, torch.zeros(64))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize("kind", [Hint, AttentionTransfer])
def test_maps_are_resized_when_asked(kind: type[Hint | AttentionTransfer]) -> None:
    """Promise: the teacher's map becomes means of areas in the student's resolution; unasked, it is refused."""
    student, teacher = _drawn(2, (3, 4, 4, 4), (3, 4, 8, 8))
    small = teacher.reshape(3, 4, 4, 2, 4, 2).mean((3, 5))
    assert _value(kind(resize=True), student, teacher) == pytest.approx(_value(kind(), student, small), rel=1e-10)
    with pytest.raises(InputError, match="resize = true"):
        kind().check(torch.from_numpy(student), torch.from_numpy(teacher))


@given(seed=SEEDS, scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(deadline=None, max_examples=10)
def test_relations_stay_when_features_move(seed: int, scale: float, shift: float) -> None:
    """Promise: RKD ignores translation, scale and rotation; SP scale and rotation; attention the channels' order."""
    student, teacher = _drawn(seed, (5, 6), (5, 4))
    rotation = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(6, 6)))[0]
    for loss in RELATIONS:
        moved = student @ rotation * scale
        if not isinstance(loss, SimilarityPreserving):
            moved = moved + shift
        assert _value(loss, moved, teacher) == pytest.approx(_value(loss, student, teacher), rel=1e-6, abs=1e-9)
    one, other = _drawn(seed, (3, 4, 2, 2), (3, 5, 2, 2))
    mixed = one[:, np.random.default_rng(seed).permutation(4)] * scale
    found = _value(AttentionTransfer(), mixed, other)
    assert found == pytest.approx(_value(AttentionTransfer(), one, other), rel=1e-9)


@pytest.mark.parametrize("loss", [*RELATIONS, AttentionTransfer(), Hint()])
def test_what_is_like_the_teacher_costs_nothing(loss: DistillLoss) -> None:
    """Promise: equal features are a loss of 0, with a gradient of 0."""
    features = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    loss.check(features, features.detach())
    value = loss(features, features.detach().clone(), torch.zeros(4))
    (gradient,) = torch.autograd.grad(value, features)
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-7


@pytest.mark.parametrize("loss", [*RELATIONS, AttentionTransfer(), Hint()])
def test_gradients_are_those_of_finite_differences(loss: DistillLoss) -> None:
    """Promise: what is trained by is the derivative of what is told."""
    student, teacher = (torch.from_numpy(array) for array in _drawn(4, (4, 3, 2, 2), (4, 3, 2, 2)))
    loss.check(student, teacher)
    loss.double()
    assert torch.autograd.gradcheck(lambda moved: loss(moved, teacher, torch.zeros(4)), student.requires_grad_())


@pytest.mark.parametrize("loss", RELATIONS)
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_equal_samples_do_not_break_relations(loss: DistillLoss, samples: int) -> None:
    """Promise: twins in a batch, dead features or a batch of one give finite losses and gradients."""
    for student in (torch.zeros(samples, 3), torch.ones(samples, 3), torch.randn(1, 3).expand(samples, 3).clone()):
        moved = student.requires_grad_()
        value = loss(moved, torch.randn(samples, 4), torch.zeros(samples))
        (gradient,) = torch.autograd.grad(value, moved)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "words"),
    [
        (Hint(), (2, 4, 8, 8), (2, 6, 4, 4), ("(4, 8, 8)", "(6, 4, 4)", "resize")),
        (Hint(), (2, 4, 8, 8), (2, 64), ("(4, 8, 8)", "(64,)", "equally many axes")),
        (Hint(), (2, 4, 8), (2, 6, 9), ("axis = 1 or axis = 2",)),
        (Hint(axis=4), (2, 4, 8, 8), (2, 6, 8, 8), ("axis 4", "from 1 to 3")),
        (Hint(axis=0), (2, 4, 8, 8), (2, 6, 8, 8), ("axis 0",)),
        (Hint(axis=2), (2, 4, 8, 8), (2, 4, 6, 8), ("axis 1 or on the last axis",)),
        (Hint(axis=2, resize=True), (2, 8, 4), (2, 6, 4), ("only maps with channels on axis 1",)),
        (AttentionTransfer(), (2, 10), (2, 12), ("nowhere to look", "(10,)")),
        (AttentionTransfer(), (2, 10, 1, 1), (2, 12, 1, 1), ("nowhere to look",)),
    ],
)
def test_features_that_cannot_be_compared_are_refused(
    loss: DistillLoss, student: tuple[int, ...], teacher: tuple[int, ...], words: tuple[str, ...]
) -> None:
    """Promise: both shapes are told with what would mend it, before anything is trained."""
    with pytest.raises(InputError) as error:
        loss.check(torch.zeros(student), torch.zeros(teacher))
    assert all(word in str(error.value) for word in words)


def test_too_many_triples_are_refused() -> None:
    """Promise: a batch whose triples do not fit into memory is an error with a number, not a crash."""
    with pytest.raises(InputError, match="at most 512"):
        RelationalAngle()(torch.zeros(600, 2), torch.zeros(600, 2), torch.zeros(600))
