"""Which weights become zero: against numpy, layer by layer and over the whole net."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, fx, nn

from pipeline.edits import Edit, Sparse, apply_edits, edits_from_json, edits_to_json
from pipeline.graph import trace
from pipeline.graph.copying import copy_graph
from pipeline.sparsity import (
    Pattern,
    Weight,
    below_threshold,
    by_pattern,
    find_weights,
    lowest_share,
    with_zeros,
    zero_keeper,
)
from targets.errors import InputError

Values = np.ndarray[Any, np.dtype[np.float32]]


class Net(nn.Module):
    """Every kind of operator with weights, and some without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.mix = nn.Parameter(torch.randn(6, 4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.deep(torch.relu(self.bn(self.conv(x)))))
        x, _ = self.gru(x.flatten(2).transpose(1, 2))
        return self.fc(x[:, -1] @ self.mix)


def graph() -> fx.GraphModule:
    """A copy of the net's graph for each test, traced once."""
    return copy_graph(_traced())


@functools.cache
def _traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return trace(Net(), {"x": torch.randn(2, 3, 2, 2)})


def weight(values: Values, name: str = "fc.weight", axis: int = 1) -> Weight:
    return Weight(name=name, input_axis=axis, values=values.astype(np.float32))


def test_every_weight_that_multiplies_is_found() -> None:
    """Promise: convolutions, transposed ones, products, recurrent layers; no bias, no norm; with their input axis."""
    found = {w.name: w.input_axis for w in find_weights(graph())}
    assert found == {
        "conv.weight": 1, "deep.weight": 1, "up.weight": 0, "gru.weight_ih_l0": 1, "gru.weight_hh_l0": 1,
        "mix": 0, "fc.weight": 1,
    }  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    layers=st.lists(
        arrays.arrays(
            np.float32,
            st.tuples(st.integers(1, 6), st.integers(1, 9)),
            elements=st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]),
        ),
        min_size=1,
        max_size=4,
    ),
    ratio=st.floats(0.05, 0.95),
)
def test_a_share_of_all_weights_is_the_smallest_of_them(layers: list[Values], ratio: float) -> None:
    """Promise: exactly the share, none kept is smaller than one dropped, of equal ones the first go."""
    weights = [weight(values, f"l{i}.weight") for i, values in enumerate(layers)]
    row = np.abs(np.concatenate([w.values.ravel() for w in weights]))
    count = round(ratio * len(row))
    wanted = np.ones(len(row), dtype=bool)
    wanted[np.argsort(row, kind="stable")[:count]] = False
    parts = np.split(wanted, np.cumsum([w.values.size for w in weights])[:-1])
    if count == 0 or any(not part.any() for part in parts):
        with pytest.raises(InputError):
            lowest_share(weights, ratio, "global")
        return
    masks = lowest_share(weights, ratio, "global")
    for w, part in zip(weights, parts, strict=True):
        assert np.array_equal(masks[w.name].ravel(), part)


def test_a_share_of_each_layer_is_that_of_each() -> None:
    """Promise: locally, every layer loses the same share, however large its weights are."""
    rng = np.random.default_rng(0)
    weights = [weight(rng.standard_normal((10, 10)) * scale, f"l{scale}.weight") for scale in (1, 100)]
    masks = lowest_share(weights, 0.3, "local")
    assert [int((~masks[w.name]).sum()) for w in weights] == [30, 30]
    globally = lowest_share(weights, 0.3, "global")
    assert (~globally["l1.weight"]).sum() > 55


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kept=st.integers(1, 3),
    more=st.integers(1, 3),
    groups=st.integers(1, 3),
    axis=st.integers(0, 2),
    seed=st.integers(0, 9),
)
def test_of_every_group_the_largest_are_kept(kept: int, more: int, groups: int, axis: int, seed: int) -> None:
    """Promise: N of every M along the input axis, and those of the largest magnitude, wherever that axis is."""
    pattern = Pattern(kept=kept, of=kept + more)
    shape = [3, 2, 5]
    shape[axis] = groups * pattern.of
    one = weight(np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32), axis=axis)
    mask = by_pattern([one], pattern)[one.name]
    rows = np.moveaxis(np.abs(one.values), axis, -1).reshape(-1, pattern.of)
    chosen = np.moveaxis(mask, axis, -1).reshape(-1, pattern.of)
    for row, choice in zip(rows, chosen, strict=True):
        assert choice.sum() == kept
        assert sorted(row[choice]) == sorted(row)[-kept:]
    assert pattern.holds(one.values * mask, axis)
    assert pattern.holds(one.values, axis) == all(np.count_nonzero(row) <= kept for row in rows)


def test_layers_without_whole_groups_stay_dense() -> None:
    """Promise: what a sparse tensor core cannot take stays dense; a net with none of it is refused with its widths."""
    weights = find_weights(graph())
    assert set(by_pattern(weights, Pattern(kept=2, of=4))) == {"up.weight", "gru.weight_ih_l0", "fc.weight"}
    with pytest.raises(InputError, match=r"multiple of 16[\s\S]*1, 3, 4"):
        by_pattern(weights, Pattern(kept=2, of=16))


def test_a_threshold_drops_what_is_below_it() -> None:
    """Promise: below, not at; nothing below is an error that says where weights begin."""
    one = weight(np.array([[0.5, -0.25, 1.0], [-2.0, 0.1, 0.3]]))
    assert np.array_equal(below_threshold([one], 0.25)[one.name], np.abs(one.values) >= 0.25)
    with pytest.raises(InputError, match=r"smallest is 0\.1[\s\S]*below 0\.4"):
        below_threshold([one], 0.05)


@pytest.mark.parametrize("scope", ["global", "threshold"])
def test_no_layer_is_emptied(scope: str) -> None:
    """Promise: a layer of small weights is named, not wiped out."""
    weights = [weight(np.full((4, 4), 0.01), "small.weight"), weight(np.ones((4, 4)), "large.weight")]
    with pytest.raises(InputError, match=r"'small\.weight'[\s\S]*sparsify\.protect"):
        lowest_share(weights, 0.5, "global") if scope == "global" else below_threshold(weights, 0.5)


def sparse(ratio: float = 0.5) -> tuple[fx.GraphModule, tuple[Edit, ...]]:
    gm = graph()
    masks = lowest_share(find_weights(gm), ratio, "local")
    made = with_zeros(gm, masks)
    zeros = {name: int((made.get_parameter(name) == 0).sum()) for name in masks}
    return made, (Sparse(zeros=zeros),)


def test_zeros_are_in_the_copy_alone() -> None:
    """Promise: the model that was given keeps its weights."""
    gm = graph()
    made = with_zeros(gm, lowest_share(find_weights(gm), 0.9, "local"))
    assert not (gm.get_parameter("fc.weight") == 0).any()
    assert int((made.get_parameter("conv.weight") == 0).sum()) == round(0.9 * 216)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_stay_zero_in_training(optimizer: str) -> None:
    """Promise: with momentum and decay, weights that were zero are exactly zero after every step; others learn."""
    gm, edits = sparse()
    before = {name: value.detach().clone() for name, value in gm.named_parameters()}
    keep = zero_keeper(gm, edits)
    assert keep is not None
    made = (
        torch.optim.SGD(gm.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
        if optimizer == "sgd"
        else torch.optim.AdamW(gm.parameters(), lr=0.1)
    )
    for _ in range(3):
        made.zero_grad()
        gm(torch.randn(4, 3, 2, 2)).square().sum().backward()
        made.step()
        keep()
    for name, value in gm.named_parameters():
        if name in edits[0].zeros:  # type: ignore[attr-defined]
            assert torch.equal(value[before[name] == 0], torch.zeros(int((before[name] == 0).sum())))
        assert not torch.equal(value, before[name])
    edits[0].check(gm)


def test_a_dense_model_needs_no_keeping() -> None:
    """Promise: without such an edit, training is not touched."""
    assert zero_keeper(graph(), ()) is None


def test_zeros_that_are_gone_are_noticed() -> None:
    """Promise: a model file whose zeros were lost does not load as a sparse one."""
    gm, edits = sparse()
    again = edits_from_json(edits_to_json(edits))
    assert again == edits
    apply_edits(gm, again)
    with torch.no_grad():
        gm.get_parameter("fc.weight").add_(1.0)
    with pytest.raises(InputError, match=r"'fc\.weight' were made zero, and 0 are"):
        again[0].check(gm)


@pytest.mark.parametrize(
    ("zeros", "words"),
    [({"fc.wieght": 1}, "'fc.weight'"), ({"fc.weight": 13}, "12 elements"), ({}, "names none"), ({"a": -1}, "-1")],
)
def test_an_edit_that_does_not_fit_is_refused(zeros: dict[str, int], words: str) -> None:
    """Promise: unknown names, more zeros than elements and damaged documents are input errors."""
    with pytest.raises(InputError, match=words):
        apply_edits(graph(), edits_from_json([{"kind": "sparse", "zeros": zeros}]))
