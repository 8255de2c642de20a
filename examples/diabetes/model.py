"""A small network for a row of numbers."""

from __future__ import annotations

from torch import nn


def progression_net(width: int = 64) -> nn.Module:
    """(N, 10) measurements to one number, (N, 1)."""
    return nn.Sequential(
        nn.Linear(10, width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, 1),
    )
