"""Groups say what lives and dies together, and name what stays whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from pipeline.graph import trace
from pipeline.pruning import PruningGraph, all_criteria, choose_by_ratio, find_groups
from targets.errors import InputError


class Stages(nn.Module):
    """A stage of 4 channels continued by one of 8 through a shortcut padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.wide, self.fc = (
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 8, 1),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x))
        x = self.wide(x) + F.pad(x, (0, 0, 0, 0, 2, 2))
        return self.fc(x.mean((2, 3)))


class Norms(nn.Module):
    """Operators that need a dimension whole, one that goes by groups, and one that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gn, self.b = nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 1)
        self.c, self.ln, self.d = nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.gn(self.a(x))).flatten(2).transpose(1, 2)
        return torch.cdist(self.d(self.ln(self.c(x))), x.new_ones(1, 4))


def groups_of(model: nn.Module) -> PruningGraph:
    return find_groups(trace(model, {"x": torch.randn(2, 3, 2, 2)}))


def test_padded_shortcut_makes_two_groups() -> None:
    """Channels of both stages are one group, those only the second has are another; members and roles fit."""
    both, second = groups_of(Stages()).groups
    assert (both.name, both.size, second.name, second.size) == ("stem", 4, "wide", 4)
    found = {(m.parameter, m.axis): (sorted(m.roles), m.units.tolist()) for m in both.members}
    assert found == {
        ("stem.weight", 0): (["producer"], [0, 1, 2, 3]),
        ("stem.bias", 0): (["carrier"], [0, 1, 2, 3]),
        ("bn.weight", 0): (["carrier"], [0, 1, 2, 3]),
        ("bn.bias", 0): (["carrier"], [0, 1, 2, 3]),
        ("bn.running_mean", 0): (["carrier"], [0, 1, 2, 3]),
        ("bn.running_var", 0): (["carrier"], [0, 1, 2, 3]),
        ("wide.weight", 0): (["producer"], [-1, -1, 0, 1, 2, 3, -1, -1]),
        ("wide.weight", 1): (["consumer"], [0, 1, 2, 3]),
        ("wide.bias", 0): (["carrier"], [-1, -1, 0, 1, 2, 3, -1, -1]),
        ("fc.weight", 1): (["consumer"], [-1, -1, 0, 1, 2, 3, -1, -1]),
    }
    units = {(m.parameter, m.axis): m.units.tolist() for m in second.members}
    assert units["wide.weight", 0] == [0, 1, -1, -1, -1, -1, 2, 3]
    assert not any(name.startswith(("stem", "bn")) for name, _ in units)


def test_what_stays_whole_is_named() -> None:
    """Promise: a norm and an operator without rule are on record with module, reason, units and parameters."""
    graph = groups_of(Norms())
    assert [(group.name, group.size, group.channels_per_unit) for group in graph] == [("a", 2, 4), ("b", 6, 1)]
    found = {(f.operator, f.module): f for f in graph.frozen}
    norm = found["layer_norm", "ln"]
    assert (norm.reason, norm.units) == ("takes a statistic over it", 10)
    assert norm.parameters == 10 * 6 + 10 + 10 + 10 + 4 * 10
    assert "no rule" in found["cdist", ""].reason
    assert (found["cdist", ""].units, found["cdist", ""].parameters) == (4, 4 * 10 + 4)


def test_nothing_to_prune_is_an_error_that_says_why() -> None:
    """A model whose channels all stay has no groups, and asking for a ratio says which operators hold them."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LayerNorm([8, 2, 2]), nn.Flatten(), nn.Linear(32, 2))
    graph = groups_of(model)
    assert graph.groups == ()
    with pytest.raises(InputError, match="layer_norm"):
        choose_by_ratio(graph, {}, ratio=0.5)


def test_l2_norm_by_hand() -> None:
    """The score of a unit is the L2 norm over all the filters that produce it."""
    model = Stages()
    gm = trace(model, {"x": torch.randn(2, 3, 2, 2)})
    group = find_groups(gm).groups[0]
    weights = torch.cat([model.stem.weight.flatten(1), model.wide.weight[2:6].flatten(1)], 1)
    expected = weights.double().norm(dim=1).detach()
    torch.testing.assert_close(torch.from_numpy(all_criteria()["l2"].score(gm, [group])[group.name]), expected)
