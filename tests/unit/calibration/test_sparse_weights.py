"""Weights that a sparse float model has at zero are not moved by what learns on its int8 file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calibration.torchlearn import hold_zeros


@pytest.mark.parametrize("sparse", [True, False])
def test_exact_zeros_have_no_gradient(sparse: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Promise: what is exactly zero in the float model stays zero, whatever the optimiser; all else learns."""
    source = np.array([[1.0, 0.0 if sparse else 0.1], [-2.0, 3.0]], np.float32)
    steps = torch.nn.Parameter(torch.from_numpy(source.copy()))
    stored: Any = SimpleNamespace(source="w")
    hold_zeros(steps, stored, {"w": source})
    optimizer = torch.optim.Adam([steps], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        steps.square().sum().add(steps.sum()).backward()
        optimizer.step()
    assert (float(steps[0, 1].detach()) == 0.0) == sparse
    assert not np.any(steps.detach().numpy()[[0, 1, 1], [0, 0, 1]] == source[[0, 1, 1], [0, 0, 1]])


def test_weights_of_unknown_origin_all_learn() -> None:
    """Promise: without the float weight nobody knows which zeros were meant, so none is held."""
    steps = torch.nn.Parameter(torch.zeros(2, 2))
    stored: Any = SimpleNamespace(source="gone")
    hold_zeros(steps, stored, {})
    steps.sum().backward()
    assert torch.equal(steps.grad, torch.ones(2, 2))  # type: ignore[arg-type]
