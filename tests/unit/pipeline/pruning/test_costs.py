"""Costs are those of the net that surgery makes, and widths are found that fit them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.graph import count_macs, count_parameters, trace
from pipeline.pruning import (
    Group,
    Member,
    all_criteria,
    apply_decisions,
    choose_by_ratio,
    find_groups,
    importance_kept,
    normalized,
    prunable_groups,
    remove_lowest,
    width_choices,
    widths_for_ratio,
    widths_to_fit,
)
from pipeline.pruning.costs import bytes_of, macs_of, parameters_of
from pipeline.pruning.schedule import shares, steps_down
from targets.errors import InputError

EXAMPLE = {"x": torch.zeros(2, 3, 8, 8)}


class Net(nn.Module):
    """A residual sum, a grouped convolution, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.a, self.b = nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.Conv2d(32, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        return self.fc((x + self.b(torch.relu(self.a(x)))).mean((2, 3)))


def net() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    return trace(Net().eval(), EXAMPLE)


@settings(max_examples=5, deadline=None)
@given(st.floats(0.1, 0.8))
def test_costs_of_any_widths_are_counted_on_the_cut_graph(ratio: float) -> None:
    """Promise: parameters, bytes and multiply-accumulates without cutting are those after it."""
    gm = net()
    graph = find_groups(gm)
    widths = {group.name: max(1, round(group.size * (1 - ratio))) for group in graph.groups}
    small = apply_decisions(gm, graph.decide({g.name: np.arange(widths[g.name], g.size) for g in graph.groups}))
    assert parameters_of(gm, graph)(widths) == count_parameters(small)
    size = sum(t.numel() * t.element_size() for t in small.state_dict().values())
    assert bytes_of(gm, graph)(widths) == size
    assert macs_of(gm, graph, EXAMPLE)(widths) == count_macs(small, EXAMPLE)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_just_enough_is_removed(share: float, scope: str) -> None:
    """Promise: the net found fits the limit, and one step less of the ratio would not."""
    gm = net()
    graph = find_groups(gm)
    groups = prunable_groups(graph)
    scores = normalized(all_criteria()["l1"].score(gm, groups), "mean")
    cost = parameters_of(gm, graph)
    limit = share * cost({})
    found = widths_to_fit(groups, scores, cost=cost, limit=limit, what="parameters", alignment=1, scope=scope)  # type: ignore[arg-type]
    assert cost(found) <= limit
    ratios = np.linspace(0.25, 0.95, 36)
    every = [widths_for_ratio(groups, scores, ratio=ratio, alignment=1, scope=scope) for ratio in ratios]  # type: ignore[arg-type]
    assert cost(found) >= max(cost(widths) for widths in every if cost(widths) <= limit)
    small = apply_decisions(gm, remove_lowest(graph, scores, found))
    assert count_parameters(small) == cost(found)


def test_the_least_that_can_be_reached_is_said() -> None:
    """Promise: a limit below the narrowest net's cost is an error that says that cost and what would be left."""
    gm = net()
    graph = find_groups(gm)
    groups = prunable_groups(graph)
    scores = all_criteria()["l2"].score(gm, groups)
    cost = parameters_of(gm, graph)
    least = cost({group.name: width_choices(group, 8)[0] for group in groups})
    with pytest.raises(InputError, match="cannot be reached") as error:
        widths_to_fit(groups, scores, cost=cost, limit=least - 1, what="parameters", alignment=8, scope="local")
    assert f"{least:,.6g}" in error.value.why
    assert "% of the importance" in error.value.why
    with pytest.raises(InputError, match="would remove nothing"):
        widths_to_fit(groups, scores, cost=cost, limit=cost({}), what="parameters", alignment=8, scope="local")


def test_protection_raises_the_least() -> None:
    """Promise: protected layers count: what was in reach without them is out of it with them, and said so."""
    gm = net()
    graph = find_groups(gm)
    cost = parameters_of(gm, graph)
    scores = all_criteria()["l2"].score(gm, graph.groups)
    limit = 0.6 * cost({})
    free = prunable_groups(graph)
    assert widths_to_fit(free, scores, cost=cost, limit=limit, what="parameters", alignment=1, scope="local")
    kept = prunable_groups(graph, ["a"])
    assert len(kept) < len(free)
    with pytest.raises(InputError, match="cannot be reached") as error:
        widths_to_fit(kept, scores, cost=cost, limit=0.2 * cost({}), what="parameters", alignment=1, scope="local")
    assert "prune.protect" in error.value.fix


def test_a_single_unit_is_refused() -> None:
    """Promise: a group of one unit cannot lose any, and that is an error, not a net without channels."""
    member = Member(parameter="w", axis=0, roles=frozenset({"producer"}), units=np.zeros(1, dtype=np.int64))
    group = Group(name="w", size=1, channels_per_unit=1, members=(member,))
    with pytest.raises(InputError, match="cannot be pruned"):
        width_choices(group, 1)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_ratios_out_of_range(ratio: float) -> None:
    """Promise: a ratio outside (0, 1) is an error; none is clamped."""
    gm = net()
    graph = find_groups(gm)
    with pytest.raises(InputError, match="out of range"):
        choose_by_ratio(graph, all_criteria()["l2"].score(gm, graph.groups), ratio=ratio)


def test_importance_kept_by_hand() -> None:
    """Promise: the share of importance left is that of the best units."""
    assert importance_kept({"a": np.array([1.0, 3.0, 2.0])}, {"a": 2}) == pytest.approx(5 / 6)


@given(st.sampled_from(["linear", "cubic"]), st.integers(2, 12), st.integers(2, 64), st.data())
def test_schedules_come_down_to_what_is_asked(schedule: str, steps: int, size: int, data: st.DataObject) -> None:
    """Promise: widths never rise, the last step is exact, and cubic has always done at least as much as linear."""
    after = {"a": data.draw(st.integers(1, size - 1))}
    found = steps_down({"a": size}, after, schedule, steps)  # type: ignore[arg-type]
    widths = [size, *(step["a"] for step in found)]
    assert widths == sorted(set(widths), reverse=True)
    assert widths[-1] == after["a"]
    assert all(c >= x - 1e-12 for c, x in zip(shares("cubic", steps), shares("linear", steps), strict=True))
    assert shares("cubic", steps)[0] == pytest.approx(1 - (1 - 1 / steps) ** 3)
    assert shares("one_shot", 1) == (1.0,)
