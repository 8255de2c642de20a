"""Criteria say what their papers say: each against an independent computation on small nets."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from pipeline.data import Split
from pipeline.graph import trace
from pipeline.pruning import Evidence, all_criteria, find_groups, mask_decisions, normalized
from pipeline.recipe.pruning import CriterionName
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

    from pipeline.pruning import Group

SAMPLES = 5


class Net(nn.Module):
    """Conv, batch norm, a residual sum, a linear layer of three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.a(x)))
        x = x + F.relu(self.b(x))
        return self.fc(x.mean((2, 3)))


class Chain(nn.Module):
    """Two hidden layers without anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.f1, self.f2, self.f3 = nn.Linear(3, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.f3(torch.tanh(self.f2(torch.tanh(self.f1(x)))))


def traced(module: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return trace(module.eval(), {"x": torch.zeros((2, *shape))})


def split(shape: tuple[int, ...], labels: int | None, seed: int = 1) -> Split:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SAMPLES, *shape)).astype(np.float32)
    return Split(inputs={"x": x}, labels=None if labels is None else rng.integers(0, labels, SAMPLES))


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], labels)


def by_name(gm: fx.GraphModule) -> dict[str, Group]:
    return {group.name: group for group in find_groups(gm).groups}


def weight(gm: fx.GraphModule, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return dict(gm.named_parameters())[name].detach().double().numpy()


def test_every_criterion_has_its_name_in_the_recipe() -> None:
    """Promise: a criterion is a class and a name, and the recipe knows all of them."""
    assert set(get_args(CriterionName)) == set(all_criteria())


def test_norms_of_tied_filters() -> None:
    """Promise: L1, L2, batch-norm scale and FPGM are those of all filters that make a unit, as numpy computes them."""
    gm = traced(Net(), (2, 6, 6))
    (group,) = find_groups(gm).groups  # both convolutions are tied by the sum
    a, b = weight(gm, "a.weight").reshape(4, -1), weight(gm, "b.weight").reshape(4, -1)
    both = np.concatenate([a, b], axis=1)
    every = all_criteria()
    found = {name: every[name].score(gm, [group])[group.name] for name in ("l1", "l2", "bn_scale", "fpgm", "lamp")}
    np.testing.assert_allclose(found["l1"], np.abs(both).sum(1), rtol=1e-9)
    np.testing.assert_allclose(found["l2"], np.sqrt((both**2).sum(1)), rtol=1e-9)
    np.testing.assert_allclose(found["bn_scale"], np.abs(weight(gm, "bn.weight")), rtol=1e-9)
    distances = [sum(float(np.linalg.norm(p - q)) for q in both) for p in both]
    np.testing.assert_allclose(found["fpgm"], distances, rtol=1e-9)
    squares = (both**2).sum(1)
    shares = [value / squares[squares >= value].sum() for value in squares]
    np.testing.assert_allclose(found["lamp"], shares, rtol=1e-9)


def test_random_is_seeded_and_differs_by_group() -> None:
    """Promise: random scores depend on the seed and the group, and on nothing else."""
    gm = traced(Chain(), (3,))
    groups = find_groups(gm).groups
    criterion = all_criteria()["random"]
    one, again = criterion.score(gm, groups, Evidence(seed=3)), criterion.score(gm, groups[::-1], Evidence(seed=3))
    other = criterion.score(gm, groups, Evidence(seed=4))
    for name, values in one.items():
        np.testing.assert_array_equal(values, again[name])
        assert not np.array_equal(values, other[name])
    assert not np.array_equal(one["f1"], one["f2"][:5])


def test_no_batch_norm_is_said() -> None:
    """Promise: the batch-norm scale of a group without batch norm is an error that names the group."""
    gm = traced(Chain(), (3,))
    with pytest.raises(InputError, match="f1"):
        all_criteria()["bn_scale"].score(gm, find_groups(gm).groups)


@pytest.mark.parametrize(("make", "shape", "classes"), [(Net, (2, 6, 6), 3), (Chain, (3,), 2)])
def test_gates_by_finite_differences(make: type[nn.Module], shape: tuple[int, ...], classes: int) -> None:
    """Promise: first and second order are the mean |dL/dgate| and the mean half square, gates moved by hand.

    A gate of 1 - h on a unit is what the masked net is at h = 1: consumers' weights times 1 - h.
    """
    gm, data = traced(make(), shape), split(shape, classes)
    graph = find_groups(gm)
    evidence = Evidence(samples=data, loss=loss)
    taylor = all_criteria()["taylor"].score(gm, graph.groups, evidence)
    second = all_criteria()["second_order"].score(gm, graph.groups, evidence)
    for group in graph.groups:
        for unit in range(group.size):
            masked = mask_decisions(gm, graph.decide({group.name: np.array([unit])}))
            slopes = np.array([_slope(gm, masked, data.take(slice(i, i + 1))) for i in range(SAMPLES)])
            np.testing.assert_allclose(taylor[group.name][unit], np.abs(slopes).mean(), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(second[group.name][unit], 0.5 * (slopes**2).mean(), rtol=1e-4, atol=1e-6)


def _slope(gm: fx.GraphModule, masked: fx.GraphModule, sample: Split, step: float = 1e-4) -> float:
    """The derivative of a sample's loss between the net and the masked net, at the net; in double precision."""
    at = []
    for share in (-step, step):
        mixed = {
            name: torch.lerp(value.double(), masked.state_dict()[name].double(), share)
            if value.is_floating_point()
            else value
            for name, value in gm.state_dict().items()
        }
        x = torch.from_numpy(sample.inputs["x"]).double()
        answer: Tensor = torch.func.functional_call(gm, mixed, (x,))
        assert sample.labels is not None
        at.append(float(loss([answer], torch.from_numpy(sample.labels))))
    return (at[0] - at[1]) / (2 * step)


def test_output_sensitivity_is_the_jacobian() -> None:
    """Promise: importance(i) = sum_j (dy_j/dx_i)^2, by torch's own Jacobian of what follows the neuron."""
    gm, data = traced(Chain(), (3,)), split((3,), None)
    found = all_criteria()["output_sensitivity"].score(gm, find_groups(gm).groups, Evidence(samples=data, batch_size=2))
    w = {name: value.detach().double() for name, value in gm.named_parameters()}
    x = torch.from_numpy(data.inputs["x"]).double()
    first = torch.tanh(x @ w["f1.weight"].T + w["f1.bias"])
    second = torch.tanh(first @ w["f2.weight"].T + w["f2.bias"])

    def after_first(hidden: Tensor) -> Tensor:
        return torch.tanh(hidden @ w["f2.weight"].T + w["f2.bias"]) @ w["f3.weight"].T + w["f3.bias"]

    jacobians = [torch.autograd.functional.jacobian(after_first, hidden) for hidden in first]
    expected = sum((jacobian**2).sum(0) for jacobian in jacobians) / SAMPLES
    np.testing.assert_allclose(found["f1"], expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["f2"], (w["f3.weight"] ** 2).sum(0).numpy(), rtol=1e-5)
    assert second.shape[1] == len(found["f2"])


def test_many_outputs_are_projected_without_bias() -> None:
    """Promise: with more outputs than are counted one by one, random signs give the same sum, near enough."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 400))
    gm = trace(module.eval(), {"input": torch.zeros(2, 3)})
    rng = np.random.default_rng(0)
    data = Split(inputs={"input": rng.normal(size=(64, 3)).astype(np.float32)}, labels=None)
    found = all_criteria()["output_sensitivity"].score(gm, find_groups(gm).groups, Evidence(samples=data))
    exact = (weight(gm, "2.weight") ** 2).sum(0)
    np.testing.assert_allclose(found["0"], exact, rtol=0.1)


def test_activation_mean_is_what_readers_see() -> None:
    """Promise: the mean absolute activation, where the next operator with weights reads it."""
    gm, data = traced(Net(), (2, 6, 6)), split((2, 6, 6), None)
    (group,) = find_groups(gm).groups
    found = all_criteria()["activation_mean"].score(gm, [group], Evidence(samples=data, batch_size=3))[group.name]
    seen: dict[str, Tensor] = {}
    x = torch.from_numpy(data.inputs["x"])
    w = dict(gm.named_parameters()) | dict(gm.named_buffers())
    first = F.batch_norm(
        F.conv2d(x, w["a.weight"], w["a.bias"], padding=1),
        w["bn.running_mean"], w["bn.running_var"], w["bn.weight"], w["bn.bias"],
    ).relu()  # fmt: skip
    seen["b"] = first
    seen["fc"] = (first + F.conv2d(first, w["b.weight"], w["b.bias"], padding=1).relu()).mean((2, 3))
    totals = seen["b"].abs().sum((0, 2, 3)) + seen["fc"].abs().sum(0)
    counts = SAMPLES * (36 + 1)
    np.testing.assert_allclose(found, (totals / counts).detach().numpy(), rtol=1e-5)


def test_no_data_and_no_labels_are_said() -> None:
    """Promise: a criterion that needs data, or labels, where there are none, is an error that says which."""
    gm = traced(Chain(), (3,))
    groups = find_groups(gm).groups
    with pytest.raises(InputError, match="needs data"):
        all_criteria()["activation_mean"].score(gm, groups)
    with pytest.raises(InputError, match="needs labels"):
        all_criteria()["taylor"].score(gm, groups, Evidence(samples=split((3,), None)))


@pytest.mark.parametrize("name", ["taylor", "second_order", "output_sensitivity", "activation_mean"])
def test_nan_names_the_batch(name: str) -> None:
    """Promise: values that are not finite name the batch in which they were met."""
    gm = traced(Chain(), (3,))
    data = split((3,), 2)
    data.inputs["x"][3] = np.nan
    with pytest.raises(InputError, match=r"batch 3 \(sample 3 |batch 1 \(samples 2 to 3 ") as error:
        all_criteria()[name].score(gm, find_groups(gm).groups, Evidence(samples=data, loss=loss, batch_size=2))
    assert "NaN" in error.value.why


def test_frozen_weights_are_scored_and_stay_frozen() -> None:
    """Promise: a model whose weights want no gradient is scored the same, and is left as it was."""
    data = split((3,), 2)
    free, held = traced(Chain(), (3,)), traced(Chain(), (3,))
    for parameter in held.parameters():
        parameter.requires_grad = False
    for name in ("taylor", "output_sensitivity"):
        evidence = Evidence(samples=data, loss=loss)
        one = all_criteria()[name].score(free, find_groups(free).groups, evidence)
        two = all_criteria()[name].score(held, find_groups(held).groups, evidence)
        for group, values in one.items():
            np.testing.assert_allclose(values, two[group], rtol=1e-6)
    assert not any(parameter.requires_grad for parameter in held.parameters())
    assert all(parameter.grad is None for parameter in free.parameters())


def test_normalised_by_the_group() -> None:
    """Promise: each way to normalise divides a group's scores by a figure of its own; zeros stay zeros."""
    scores = {"a": np.array([1.0, 3.0]), "b": np.array([0.0, 0.0, 0.0])}
    for how, scale in (("none", 1.0), ("mean", 2.0), ("max", 3.0), ("sum", 4.0), ("l2", np.sqrt(10.0))):
        found = normalized(scores, how)  # type: ignore[arg-type]
        np.testing.assert_allclose(found["a"], scores["a"] / scale)
        np.testing.assert_array_equal(found["b"], scores["b"])
