"""Blocks are found without names, and a net without one computes what the user's net with an identity there does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.depth import drop_cheapest, droppable, find_blocks, how_many, skipped
from pipeline.depth.cost import Cost
from pipeline.edits import Remove, apply_edits, edits_from_json, edits_to_json
from pipeline.graph import copy_graph, set_training, trace
from pipeline.pruning import all_criteria, apply_decisions, choose_by_ratio, find_groups, mask_decisions
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import fx

Built = tuple["fx.GraphModule", nn.Module, Tensor]  # a net's graph, the net itself, samples
Build = Callable[[str], Built]

BLOCKS = {
    "vit": ["blocks.0", "blocks.1", "blocks.2"],
    "looped vit": ["layers.0.0.1", "layers.0.1.1", "layers.1.0.1", "layers.1.1.1"],
    "shared": ["block", "block@1", "block@2"],
    "bert": ["layer.0", "layer.1"],
    "resnet": ["layer1.0", "layer1.1", "layer2.1"],
    "mobilenet v2": ["features.1", "features.3"],
    "convnext v2": ["stages.1", "stages.3", "stages.4"],
    "long skip": ["body.0", "body.1", "body.2"],
}


def without(model: nn.Module, block: str) -> nn.Module:
    """The user's own model with an identity in the place of a module that takes one or two tensors."""

    class Same(nn.Module):
        def forward(self, x: Tensor, *_: Tensor) -> Tensor:
            return x

    model = copy.deepcopy(model)
    parent, _, leaf = block.rpartition(".")
    setattr(model.get_submodule(parent), leaf, Same())
    return model


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_in_order(build: Build, name: str) -> None:
    """Promise: residual blocks of every common kind of net are found, whole, in order, and nothing else."""
    gm, _, _ = build(name)
    assert [block.name for block in find_blocks(gm)] == BLOCKS[name]


@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "mobilenet v2", "convnext v2", "long skip"])
def test_a_net_without_a_block_is_the_user_s_net_with_an_identity_there(build: Build, name: str) -> None:
    """Promise: dropping blocks, one or all, computes what the eager model does with identities in their place."""
    gm, model, x = build(name)
    blocks = find_blocks(gm)
    for block in blocks:
        torch.testing.assert_close(skipped(gm, [block.skip])(x), without(model, block.name)(x), rtol=1e-9, atol=1e-9)
    for block in blocks:
        model = without(model, block.name)
    torch.testing.assert_close(skipped(gm, [b.skip for b in blocks])(x), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("unit", ["block", "branch"])
def test_what_only_a_block_used_leaves_the_state_dict(build: Build, name: str, unit: str) -> None:
    """Promise: parameters and buffers of a dropped part are gone, all others are there, the original is untouched."""
    gm, _, x = build(name)
    before = {key: value.clone() for key, value in gm.state_dict().items()}
    for block in find_blocks(gm, unit):  # type: ignore[arg-type]
        small = skipped(gm, [block.skip])
        lost = set(before) - set(small.state_dict())
        elements = sum(p.numel() for p in gm.parameters()) - sum(p.numel() for p in small.parameters())
        assert elements == block.parameters
        used = {str(node.target) for node in small.graph.nodes if node.op == "get_attr"}
        counters = {key for key in small.state_dict() if key.endswith("num_batches_tracked")}
        assert set(small.state_dict()) - counters == used
        assert all(key.rpartition(".")[0] + ".running_mean" in used for key in counters)
        assert lost or name == "shared"
        assert not set(small.state_dict()) - set(before)
    assert gm(x).isfinite().all()
    assert all(torch.equal(before[key], value) for key, value in gm.state_dict().items())


@pytest.mark.parametrize("name", BLOCKS)
def test_without_all_blocks_it_still_trains_at_any_batch_size(build: Build, name: str) -> None:
    """Promise: what is left can be trained, takes batches of any size, and is in evaluation mode again afterwards."""
    gm, _, x = build(name)
    edit = Remove(skips=tuple(block.skip for block in find_blocks(gm)))
    small = edit.apply(gm)
    assert small.get_parameter(next(iter(dict(small.named_parameters())))) is not next(gm.parameters())
    set_training(small, training=True)
    small(x).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    set_training(small, training=False)
    for batch in (1, 2, 5):
        assert small(torch.cat([x, x])[:batch]).shape == (batch, 3)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_edit_is_replayed_on_a_new_trace(build: Build, name: str) -> None:
    """Promise: through JSON and on a fresh trace the edit does the same, bit for bit."""
    gm, model, x = build(name)
    edits = edits_from_json(edits_to_json([Remove(skips=tuple(block.skip for block in find_blocks(gm)[:1]))]))
    again = apply_edits(trace(copy.deepcopy(model), {"x": x}), edits)
    assert torch.equal(again(x), apply_edits(gm, edits)(x))


@pytest.mark.parametrize("name", ["resnet", "mobilenet v2", "vit", "convnext v2"])
def test_a_shallower_net_can_be_pruned(build: Build, name: str) -> None:
    """Promise: the label graph works on what depth leaves, and its promise holds there."""
    gm, _, x = build(name)
    small = Remove(skips=(find_blocks(gm)[0].skip,)).apply(gm)
    graph = find_groups(small)
    scores = all_criteria()["l2"].score(small, graph.groups)
    decisions = choose_by_ratio(graph, scores, ratio=0.4)
    torch.testing.assert_close(
        apply_decisions(small, decisions)(x), mask_decisions(small, decisions)(x), rtol=1e-9, atol=1e-9
    )


def test_a_branch_is_named_by_what_it_computes_with(build: Build) -> None:
    """Promise: single branches of a transformer are its attentions and feed-forwards."""
    gm, _, x = build("vit")
    branches = find_blocks(gm, "branch")
    assert [b.name for b in branches] == [f"blocks.{i}.{part}" for i in range(3) for part in ("attn", "mlp")]
    model = build("vit")[1]
    nn.init.zeros_(model.get_parameter("blocks.1.attn.proj.weight"))
    nn.init.zeros_(model.get_parameter("blocks.1.attn.proj.bias"))
    torch.testing.assert_close(skipped(gm, [branches[2].skip])(x), model(x), rtol=1e-9, atol=1e-9)


class Pre(nn.Module):
    """The skipped tensor is written into by the branch and by what comes after: in-place on every side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x).relu_() + x
        z = y.relu_()
        return self.c(z) + x.sigmoid()


def test_writing_in_place_behind_a_dropped_block_spares_other_readers() -> None:
    """Promise: where the sum was written into, its stand-in is a copy, so the other readers of x see x."""
    torch.manual_seed(0)
    model = Pre().double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    gm = trace(copy.deepcopy(model), {"x": x})
    (block,) = [b for b in find_blocks(gm) if b.name == "b"]
    inner = model.a(x)
    torch.testing.assert_close(skipped(gm, [block.skip])(x), model.c(inner.relu()) + inner.sigmoid())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(kinds=st.lists(st.integers(0, 2), max_size=6), chosen=st.integers(0, 63))
def test_any_choice_of_blocks_of_a_random_net_becomes_identities(
    row: type[nn.Module], kinds: list[int], chosen: int
) -> None:
    """Promise: however blocks and layers are mixed, and whichever blocks go, identities are what is computed."""
    torch.manual_seed(chosen)
    model = row(kinds).double().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    gm = trace(copy.deepcopy(model), {"x": x})
    blocks = find_blocks(gm)
    assert [b.name for b in blocks] == [f"parts.{i + 1}" for i, kind in enumerate(kinds) if kind == 1]
    going = [block for index, block in enumerate(blocks) if chosen >> index & 1]
    for block in going:
        model = without(model, block.name)  # type: ignore[assignment]
    torch.testing.assert_close(skipped(gm, [b.skip for b in going])(x), model(x), rtol=1e-9, atol=1e-9)


# --- which blocks go ---


def test_the_cheapest_goes_first_and_costs_are_measured_anew(build: Build) -> None:
    """Promise: the order is that of the costs given what went before, not of the costs at the start."""
    gm = build("vit")[0].float()
    blocks = find_blocks(gm)
    worth = {("blocks.0",): 3.0, ("blocks.1",): 1.0, ("blocks.2",): 2.0}
    worth |= {("blocks.0", "blocks.1"): 4.0, ("blocks.1", "blocks.2"): 9.0}
    texts: list[str] = []

    def cost(small: fx.GraphModule) -> Cost:
        gone = tuple(b.name for b in blocks if f"{b.name}.norm1.weight" not in small.state_dict())
        return Cost(loss=worth[gone], change=0.0)

    judged = drop_cheapest(gm, blocks, blocks, 2, cost, lambda _, text: texts.append(text))
    assert [one.order for one in judged] == [2, 1, None]
    assert [one.alone.loss for one in judged if one.alone] == [3.0, 1.0, 2.0]
    assert [one.after.loss for one in judged if one.after] == [4.0, 1.0]
    assert len(texts) == 5


def test_a_net_that_breaks_without_a_block_keeps_it(build: Build) -> None:
    """Promise: a loss that is no number is the highest cost of all, and no crash."""
    from pipeline.data import Split
    from pipeline.depth.cost import Meter
    from pipeline.tasks import Classification

    gm = build("resnet")[0].float()
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16), dtype=np.float32)
    meter = Meter(gm, Split(inputs={"x": x}, labels=np.array([0, 1, 2, 0])), Classification(), 1)
    bad = copy_graph(gm)
    with torch.no_grad():
        bad.get_parameter("fc.bias").fill_(torch.nan)
    assert meter(bad) == Cost(loss=float("inf"), change=float("inf"))
    assert meter(gm) == meter.whole
    assert meter.whole.change == 0.0


def test_costs_agree_with_numpy(build: Build) -> None:
    """Promise: loss and change of outputs are what float64 numpy makes of the same outputs."""
    from pipeline.data import Split
    from pipeline.depth.cost import Meter
    from pipeline.tasks import Classification

    gm = build("resnet")[0].float()
    x = np.random.default_rng(0).standard_normal((6, 3, 16, 16), dtype=np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = Meter(gm, Split(inputs={"x": x}, labels=labels), Classification(), 1)(
        small := skipped(gm, [find_blocks(gm)[0].skip])
    )
    with torch.no_grad():
        whole, logits = gm(torch.from_numpy(x)).numpy().astype(float), small(torch.from_numpy(x)).numpy().astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.loss == pytest.approx(-np.log(shares[np.arange(6), labels]).mean(), rel=1e-5)
    assert found.change == pytest.approx(np.linalg.norm(logits - whole) / np.linalg.norm(whole), rel=1e-5)


def test_protected_blocks_stay_and_unknown_ones_are_named(build: Build) -> None:
    """Promise: a path or glob protects, also from above; all unknown ones are told at once with near names."""
    blocks = find_blocks(build("mobilenet v2")[0])
    assert [b.name for b in droppable(blocks, ["features.1"])] == ["features.3"]
    assert droppable(blocks, ["features"]) == []
    assert droppable(blocks, ["*.[13]"]) == []
    with pytest.raises(InputError) as caught:
        droppable(blocks, ["feature.1", "head"])
    assert [fault.where for fault in caught.value.faults] == ["depth.protect"] * 2
    assert "'features.1'" in caught.value.faults[0].fix


@pytest.mark.parametrize(
    ("blocks", "share", "protect", "words"),
    [
        (4, None, [], ("4 is too many", "3 such blocks", "depth.blocks = 3")),
        (3, None, ["layer1"], ("3 is too many", "2 of them protected", "depth.blocks = 1")),
        (None, 0.1, [], ("less than one block", "between 0.33 and 1.00")),
        (None, 0.9, ["layer1"], ("3", "between 0.33 and 0.33")),
    ],
)
def test_what_is_out_of_reach_is_told(
    build: Build, blocks: int | None, share: float | None, protect: list[str], words: tuple[str, ...]
) -> None:
    """Promise: more blocks than there are, or less than one, is an error that says how many there are."""
    found = find_blocks(build("resnet")[0].float())
    with pytest.raises(InputError) as caught:
        how_many(blocks, share, droppable(found, protect), len(found))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(("share", "count"), [(0.34, 1), (0.6, 2), (0.99, 3)])
def test_a_share_is_rounded_to_blocks(build: Build, share: float, count: int) -> None:
    """Promise: the nearest number of blocks."""
    found = find_blocks(build("resnet")[0].float())
    assert how_many(None, share, found, len(found)) == count
