"""Costs of a graph are counted for one sample, whatever the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.graph import count_macs, count_parameters, trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 16, 3, groups=4)
        self.up, self.fc = nn.ConvTranspose2d(16, 4, 2, 2), nn.Linear(4, 10)
        self.weight = nn.Parameter(torch.randn(10, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.b(self.a(x)))
        return self.fc(x.mean((2, 3)) + torch.ones(4)) @ self.weight


def test_macs_by_hand_for_any_batch() -> None:
    """Convolution, grouped, transposed, linear and matmul agree with the count by hand, for one sample."""
    gm = trace(Net(), {"x": torch.randn(2, 3, 16, 16)})
    by_hand = 8 * 8 * 8 * 3 * 9 + 16 * 6 * 6 * 2 * 9 + 16 * 6 * 6 * 4 * 4 + 4 * 10 + 10 * 6
    for batch in (1, 5):
        assert count_macs(gm, {"x": torch.randn(batch, 3, 16, 16)}) == by_hand


def test_parameters_count_ties_once() -> None:
    """Tied weights count once, buffers not."""
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert count_parameters(net) == 16 + 4 + 8 + 4
