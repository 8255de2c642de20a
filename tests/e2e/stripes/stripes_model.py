"""A residual network small enough for a test, with everything that pruning must understand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class StripesNet(nn.Module):
    """Stem, one residual block, pooling, head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, 8, 8) to logits (N, 3)."""
        x = functional.relu(self.bn(self.stem(image)))
        inner = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(inner)) + x)
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def stripes_net(width: int = 16) -> nn.Module:
    """The untrained network."""
    return StripesNet(width)
