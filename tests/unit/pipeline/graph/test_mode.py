"""A graph in training mode trains like the eager model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, fx, nn

from pipeline.graph import set_training, trace
from pipeline.graph.copying import copy_graph
from targets.errors import InputError


def make(momentum: float | None = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=momentum), nn.ReLU(), nn.Conv2d(6, 4, 3),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def five_steps(model: nn.Module) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)  # dropout
    for _ in range(5):
        x = torch.randn(4, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def traced(model: nn.Module) -> fx.GraphModule:
    return trace(model, {"x": torch.randn(2, 3, 8, 8)})


def test_five_steps_equal_eager() -> None:
    """Parameters, running statistics and batch counts after five SGD steps equal eager's, bit for bit."""
    eager = make()
    gm = traced(copy.deepcopy(eager))
    set_training(gm, training=True)
    expected, found = five_steps(eager.train()), five_steps(gm)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_back_in_evaluation_the_graph_is_as_traced() -> None:
    """Training twice and evaluating again gives the operators that were traced, and the same values."""
    gm = traced(make())
    before, x = str(gm.graph), torch.randn(3, 3, 8, 8)
    expected = gm(x)
    set_training(gm, training=True)
    set_training(gm, training=True)
    assert not torch.equal(copy_graph(gm)(x), expected)
    set_training(gm, training=False)
    torch.testing.assert_close(gm(x), expected, rtol=0, atol=0)
    assert [line.split("=", 1)[-1] for line in before.splitlines()] == [
        line.split("=", 1)[-1] for line in str(gm.graph).splitlines()
    ]


class AlwaysOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.bn(x), 0.5, training=True)


def test_what_always_trains_keeps_training() -> None:
    """Batch statistics and dropout that are on in evaluation mode stay on."""
    gm = traced(AlwaysOn())
    set_training(gm, training=True)
    set_training(gm, training=False)
    out = gm(torch.ones(2, 3, 8, 8) + torch.randn(2, 3, 8, 8))
    assert (out == 0).any()
    assert abs(float(out.detach().mean())) < 1


def test_cumulative_average_is_refused() -> None:
    """A batch norm with momentum=None would silently keep its statistics, so it is an input error."""
    gm = traced(make(momentum=None))
    with pytest.raises(InputError, match="momentum"):
        set_training(gm, training=True)
