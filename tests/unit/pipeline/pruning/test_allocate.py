"""A ratio becomes widths: the right share, aligned, protected, never empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning import Decisions, Group, Member, PruningGraph, choose_by_ratio
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.pruning.allocate import Scope

SIZES = (3, 16, 24, 64)


def graph(sizes: tuple[int, ...] = SIZES, channels: int = 1) -> PruningGraph:
    groups = tuple(
        Group(
            name=f"layer{i}.conv",
            size=size,
            channels_per_unit=channels,
            members=(
                Member(
                    parameter=f"layer{i}.conv.weight",
                    axis=0,
                    roles=frozenset({"producer"}),
                    units=np.tile(np.arange(size), channels),
                ),
            ),
        )
        for i, size in enumerate(sizes)
    )
    shapes = {f"layer{i}.conv.weight": (size * channels, 3) for i, size in enumerate(sizes)}
    return PruningGraph(groups=groups, frozen=(), shapes=shapes | {"head.fc.weight": (2, 2)})


def scores(g: PruningGraph, seed: int = 0) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    rng = np.random.default_rng(seed)
    return {group.name: rng.random(group.size) for group in g.groups}


def kept(decisions: Decisions, g: PruningGraph) -> list[int]:
    axes = decisions.parameters
    return [
        len(axes[f"{group.name}.weight"][0].kept)
        if f"{group.name}.weight" in axes
        else group.size * group.channels_per_unit
        for group in g.groups
    ]


def test_local_removes_the_lowest_of_each() -> None:
    """Locally, half of each group goes, and it is the half with the lowest scores."""
    g = graph((8, 16))
    s = scores(g)
    decisions = choose_by_ratio(g, s, ratio=0.5, scope="local")
    for group in g.groups:
        expected = np.sort(np.argsort(s[group.name])[group.size // 2 :])
        assert list(decisions.parameters[f"{group.name}.weight"][0].kept) == expected.tolist()


def test_global_compares_groups_by_relative_score() -> None:
    """Globally, a group with even scores keeps more than one whose scores are mostly tiny, whatever their scales."""
    g = graph((16, 16))
    even, uneven = np.full(16, 1e-3), np.concatenate([np.full(12, 1.0), np.full(4, 1e6)])
    found = kept(choose_by_ratio(g, {"layer0.conv": even, "layer1.conv": uneven}, ratio=0.375), g)
    assert found == [16, 4]


@settings(deadline=None, max_examples=80)
@given(
    ratio=st.floats(0.01, 0.99),
    alignment=st.sampled_from([1, 4, 8, 16]),
    channels=st.sampled_from([1, 2, 3]),
    scope=st.sampled_from(["global", "local"]),
    seed=st.integers(0, 99),
)
def test_widths_are_aligned_and_never_empty(
    ratio: float, alignment: int, channels: int, scope: Scope, seed: int
) -> None:
    """A cut width is a multiple of the alignment where the group is wide enough, and at least one unit is kept."""
    g = graph(channels=channels)
    try:
        found = kept(choose_by_ratio(g, scores(g, seed), ratio=ratio, alignment=alignment, scope=scope), g)
    except InputError as error:
        assert "nothing" in error.what  # noqa: PT017  (both outcomes are allowed)
        return
    for width, group in zip(found, g.groups, strict=True):
        step = alignment // np.gcd(alignment, channels)
        assert width >= channels
        while step > 1 and group.size < 2 * step:
            step = (step + 1) // 2
        assert width == group.size * channels or (width // channels) % step == 0
        assert group.size < 2 * step or width >= min(step, group.size) * channels


@pytest.mark.parametrize("pattern", ["layer3", "layer3.conv", "layer[3].*"])
def test_protected_modules_keep_their_width(pattern: str) -> None:
    """A path, a parent and a pattern all protect."""
    g = graph()
    found = kept(choose_by_ratio(g, scores(g), ratio=0.6, protect=[pattern]), g)
    assert found[3] == SIZES[3]
    assert found != list(SIZES)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"ratio": 0.0}, "out of range"),
        ({"ratio": 1.0}, "out of range"),
        ({"ratio": float("nan")}, "out of range"),
        ({"ratio": 0.5, "alignment": 0}, "out of range"),
        ({"ratio": 0.5, "scope": "both"}, "did you mean|known"),
        ({"ratio": 0.5, "protect": ["layer3.cnov"]}, "'layer3.conv'"),
        ({"ratio": 0.5, "protect": ["layer*"]}, "all 4 groups are protected"),
        ({"ratio": 0.001}, "remove nothing"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, object], hint: str) -> None:
    """Out of range, unknown module and nothing to remove are input errors that say so."""
    g = graph()
    with pytest.raises(InputError, match=hint):
        choose_by_ratio(g, scores(g), **options)  # type: ignore[arg-type]
