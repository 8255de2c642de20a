"""A small net with batch normalisation and dropout, and samples it can learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data import Split
from pipeline.graph import trace
from pipeline.training import EpochResult, TrainConfig, fit

if TYPE_CHECKING:
    from torch.fx import GraphModule


class Net(nn.Module):
    def __init__(self, dropout: float, norm: bool) -> None:  # noqa: FBT001
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.bn: nn.Module = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.conv(x)))
        logits: Tensor = self.head(self.drop(x.mean((2, 3))))
        return logits


@dataclasses.dataclass(frozen=True)
class World:
    """What a test of the loop is made of."""

    split: Split
    config: TrainConfig

    def graph(self, dropout: float = 0.0, *, norm: bool = True) -> GraphModule:
        torch.manual_seed(7)
        return trace(Net(dropout, norm), {"x": torch.zeros(2, 2, 6, 6)})

    def loss(self, _inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        return functional.cross_entropy(outputs[0], labels)

    def fit(self, graph: nn.Module, split: Split | None = None, **changes: Any) -> list[EpochResult]:  # noqa: ANN401
        names = {field.name for field in dataclasses.fields(TrainConfig)}
        extra: dict[str, Any] = {name: changes.pop(name) for name in [*changes] if name not in names}
        loss: Callable[..., Tensor] = extra.pop("loss", self.loss)
        extra = {"validate": lambda _: 0.5, "on_epoch": lambda _: None} | extra
        return fit(graph, split or self.split, loss, dataclasses.replace(self.config, **changes), **extra)


def state_of(graph: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in graph.state_dict().items()}


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world() -> World:
    rng = np.random.default_rng(0)
    split = Split(inputs={"x": rng.standard_normal((26, 2, 6, 6), dtype=np.float32)}, labels=rng.integers(0, 3, 26))
    config = TrainConfig(
        epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.05, weight_decay=0.01, seed=0, threads=1
    )
    return World(split=split, config=config)
