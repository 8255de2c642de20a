"""Tracing keeps names and the free batch, and says which line cannot be traced."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from pipeline.graph import trace
from targets.errors import InputError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3))) * scale


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that cannot be traced
            return x
        return -x


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        message = f"no such thing as {tuple(x.shape)}"
        raise ValueError(message)  # the line that raises


class Specialises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(2, 3)


def line_of(model: type[nn.Module], text: str) -> str:
    lines, start = inspect.getsourcelines(model)
    return f"{__file__}:{start + next(i for i, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize("batch", [1, 2])
def test_same_names_same_values_any_batch(batch: int) -> None:
    """The graph has the user's parameter names, trains them, and equals the model at other batch sizes."""
    model = Small()
    gm = trace(model, {"x": torch.randn(batch, 3, 8, 8), "scale": torch.randn(batch, 1)})
    assert [name for name, _ in gm.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(parameter.requires_grad for parameter in gm.parameters())
    for n in (1, 3):
        x, scale = torch.randn(n, 3, 8, 8), torch.randn(n, 1)
        torch.testing.assert_close(gm(x, scale), model(x, scale))


def test_a_branch_on_values_names_its_line() -> None:
    """A data-dependent `if` is an input error with file, line and the remedy torch.where."""
    with pytest.raises(InputError) as caught:
        trace(Branches(), {"x": torch.randn(2, 3)})
    assert caught.value.why.startswith(line_of(Branches, "if x.sum()"))
    assert "torch.where" in caught.value.fix
    assert "\n" not in caught.value.why


def test_a_forward_that_raises_names_its_line() -> None:
    """An exception of the user's own forward is an input error with its file, line and message."""
    with pytest.raises(InputError) as caught:
        trace(Raises(), {"x": torch.randn(2, 3)})
    assert caught.value.why == f"{line_of(Raises, 'the line that raises')}: ValueError: no such thing as (2, 3)"


def test_a_fixed_batch_is_refused() -> None:
    """A model that only works for the example's batch size is an input error."""
    with pytest.raises(InputError, match="batch"):
        trace(Specialises(), {"x": torch.randn(2, 3)})


@pytest.mark.parametrize("example", [{}, {"x": torch.tensor(1.0)}, {"x": torch.zeros(0, 3)}])
def test_an_example_without_samples_is_refused(example: dict[str, Tensor]) -> None:
    """No input, no batch axis and no sample are input errors before anything is traced."""
    with pytest.raises(InputError, match="cannot be traced"):
        trace(Branches(), example)
