"""What a recipe says of named modules is what happens there, and nothing else; all that cannot be is told at once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from pipeline.edits import Channels, Edit, Replace, apply_edits, edits_from_json, edits_to_json
from pipeline.graph import set_training, trace
from pipeline.pruning import mask_decisions
from pipeline.recipe.surgery import Replacement
from pipeline.surgery import find_parts, find_swaps, measure_statistics, state_widths
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(2, width),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.norm(self.conv1(x))))


class Gate(nn.Module):
    """A SiLU and a Hardswish written out."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(x)
        return F.hardsigmoid(y) * y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.body = nn.Sequential(Block(8), Block(8))
        self.mid, self.keep, self.gate = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=3), Gate()
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.pool(F.gelu(self.stem(x))))
        x = self.gate(self.keep(F.relu6(self.mid(x)))).permute(0, 2, 3, 1)
        return self.head(self.norm(x).mean((1, 2)))


@pytest.fixture(scope="module")
def traced() -> tuple[fx.GraphModule, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Net().double().eval()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    return trace(copy.deepcopy(model), {"x": x}), model, x


Traced = tuple[fx.GraphModule, nn.Module, Tensor]


def swap(gm: fx.GraphModule, *wanted: Replacement) -> fx.GraphModule:
    swaps, faults = find_swaps(gm, wanted)
    assert not faults
    edits = edits_from_json(edits_to_json([Replace(swaps=tuple(swaps))]))
    return apply_edits(gm, edits)


def replacement(operator: str, by: str, *modules: str) -> Replacement:
    return Replacement(operator=operator, by=by, modules=list(modules) or ["*"])  # type: ignore[arg-type]


def eager(model: nn.Module, change: Callable[[nn.Module], None]) -> nn.Module:
    model = copy.deepcopy(model)
    change(model)
    return model


# --- operators ---


@pytest.mark.parametrize(
    ("by", "module"),
    [
        ("relu", nn.ReLU), ("relu6", nn.ReLU6), ("leaky_relu", nn.LeakyReLU), ("elu", nn.ELU), ("gelu", nn.GELU),
        ("hardswish", nn.Hardswish), ("mish", nn.Mish), ("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh),
        ("hardsigmoid", nn.Hardsigmoid),
    ],
)  # fmt: skip
def test_an_activation_is_that_of_torch(traced: Traced, by: str, module: type[nn.Module]) -> None:
    """Promise: a replaced activation computes what torch's module of that name does, through JSON and in-place too."""
    gm, model, x = traced

    def change(net: nn.Module) -> None:
        net.body[1].act = module()  # type: ignore[index, union-attr]

    found = swap(gm, replacement("silu", by, "body.1"))
    torch.testing.assert_close(found(x), eager(model, change)(x), rtol=1e-9, atol=1e-9)


def test_activations_written_out_are_known(traced: Traced) -> None:
    """Promise: x * sigmoid(x) is a SiLU, x * hardsigmoid(x) a Hardswish: both become what is asked."""
    gm, model, x = traced
    found = swap(gm, replacement("silu", "relu", "gate"), replacement("hardswish", "relu", "gate"))

    def change(net: nn.Module) -> None:
        net.gate = nn.Sequential(nn.ReLU(), nn.ReLU())

    torch.testing.assert_close(found(x), eager(model, change)(x), rtol=1e-9, atol=1e-9)
    assert not [node for node in found.graph.nodes if "sigmoid" in node.name]


def test_globs_name_all_of_a_kind(traced: Traced) -> None:
    """Promise: without modules, every operator of the kind is meant, and no other."""
    gm, _, _ = traced
    swaps, faults = find_swaps(gm, [replacement("silu", "relu")])
    assert not faults
    assert [str(swap.at) for swap in swaps] == ["body.0.act:silu[0]", "body.1.act:silu[0]", "gate:mul[0]"]


def test_pools_change_places(traced: Traced) -> None:
    """Promise: averages over the same windows, padding left out; and back to the maximum bit for bit."""
    gm, model, x = traced
    found = swap(gm, replacement("max_pool", "avg_pool"))

    def change(net: nn.Module) -> None:
        net.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)

    torch.testing.assert_close(found(x), eager(model, change)(x), rtol=1e-9, atol=1e-9)
    assert torch.equal(swap(found, replacement("avg_pool", "max_pool"))(x), gm(x))


class Channels2d(nn.Module):
    """Batch normalisation over the last axis."""

    def __init__(self, like: nn.LayerNorm) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(12, eps=like.eps).double()
        self.bn.weight, self.bn.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.transpose(1, -1)).transpose(1, -1)


def test_norms_become_batch_norms_with_measured_statistics(traced: Traced) -> None:
    """Promise: with the old scale and shift, and statistics of real samples; then they train as any batch norm."""
    gm, model, x = traced
    found = swap(gm, replacement("layer_norm", "batch_norm"), replacement("group_norm", "batch_norm"))
    new = {name for name, _ in found.named_buffers()} - {name for name, _ in gm.named_buffers()}
    assert {name for name in new if "mean" in name} == {
        "body.0.norm.running_mean",
        "body.1.norm.running_mean",
        "norm.running_mean",
    }
    measure_statistics(found, {"x": x}, new)

    def change(net: nn.Module) -> None:
        for block in net.body:  # type: ignore[union-attr]
            norm = nn.BatchNorm2d(8).double()
            norm.weight, norm.bias = block.norm.weight, block.norm.bias
            block.norm = norm
        net.norm = Channels2d(net.norm)  # type: ignore[arg-type]

    reference = eager(model, change).train()
    torch.testing.assert_close(found(x), reference(x), rtol=1e-2, atol=1e-2)  # batch variances are biased
    for name, module in reference.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            path = name.removesuffix(".bn")
            module.running_mean = found.get_buffer(f"{path}.running_mean").clone()
            module.running_var = found.get_buffer(f"{path}.running_var").clone()
    torch.testing.assert_close(found(x), reference.eval()(x), rtol=1e-9, atol=1e-9)
    set_training(found, training=True)
    found(x).square().sum().backward()
    set_training(found, training=False)
    assert found.get_parameter("norm.weight").grad is not None
    assert len(found(x[:1])) == 1


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (replacement("silu", "relu", "bodi.*"), ("no silu in 'bodi.*'", "body")),
        (replacement("tanh", "relu"), ("the model has no tanh", "silu")),
        (replacement("silu", "silu"), ("by itself",)),
        (replacement("silu", "max_pool"), ("cannot become max_pool", "an activation", "pooling")),
        (replacement("layer_norm", "group_norm"), ("cannot become group_norm", "batch_norm")),
    ],
)
def test_replacements_that_cannot_be_are_told(traced: Traced, wanted: Replacement, words: tuple[str, ...]) -> None:
    """Promise: unknown places get near names, and kinds that do not fit say why."""
    _, faults = find_swaps(traced[0], [wanted])
    assert all(word in str(faults[0]) for word in words)


# --- widths ---


def _widths(gm: fx.GraphModule, widths: dict[str, int]) -> tuple[Channels, list[dict[str, object]]]:
    decisions, rows, faults = state_widths(gm, widths)
    assert not faults
    assert decisions is not None
    return Channels(decisions=decisions), rows


def test_modules_get_the_width_that_is_stated(traced: Traced) -> None:
    """Promise: exactly so many channels, the promise of pruning kept, and all that is tied goes with them."""
    gm, _, x = traced
    edit, rows = _widths(gm, {"mid": 9, "stem": 5})
    small = edit.apply(gm)
    assert [(row["module"], row["before"], row["after"]) for row in rows] == [("mid", 12, 9), ("stem", 8, 5)]
    for module, width in {"stem": 5, "body.1.conv2": 5}.items():
        assert len(small.get_parameter(f"{module}.weight")) == width
    torch.testing.assert_close(small(x), mask_decisions(gm, edit.decisions)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"stemm": 4}, ("'stemm'", "'stem'")),
        ({"stem": 9}, ("has 8 channels, fewer than 9", "8 or less")),
        ({"head": 3}, ("'head' cannot be cut",)),
        ({"stem": 4, "body.0.conv2": 6}, ("tied to 'stem', which leaves 4", "the same width")),
    ],
)
def test_widths_out_of_reach_are_told(traced: Traced, widths: dict[str, int], words: tuple[str, ...]) -> None:
    """Promise: unknown modules, larger widths, outputs and ties: each says what is there and what to write."""
    _, _, faults = state_widths(traced[0], widths)
    assert len(faults) == 1
    assert all(word in str(faults[0]) for word in words)


def test_a_width_that_is_there_already_changes_nothing(traced: Traced) -> None:
    """Promise: asking for what is there is no error, and no edit."""
    decisions, _, faults = state_widths(traced[0], {"stem": 8})
    assert decisions is None
    assert not faults


# --- parts ---


def test_named_blocks_and_modules_are_removed(traced: Traced) -> None:
    """Promise: a block by its name; any other module that keeps the shape becomes an identity."""
    from pipeline.edits import Remove

    gm, model, x = traced
    skips, faults = find_parts(gm, ["body.1", "gate"])
    assert not faults

    def change(net: nn.Module) -> None:
        net.body[1], net.gate = nn.Identity(), nn.Identity()  # type: ignore[operator]

    found = Remove(skips=tuple(skips)).apply(gm)
    torch.testing.assert_close(found(x), eager(model, change)(x), rtol=1e-9, atol=1e-9)
    assert [skip.block for skip in find_parts(gm, ["body.*"])[0]] == ["body.0", "body.1"]


def test_parts_that_cannot_go_are_told_all_at_once(traced: Traced) -> None:
    """Promise: near names for unknown ones, both shapes for those that change it."""
    _, faults = find_parts(traced[0], ["bdy.0", "mid", "norm", "stem"])
    texts = [str(fault) for fault in faults]
    assert len(texts) == 3
    assert "'body.0'" in texts[0]
    assert "(N, 8, 4, 4)" in texts[1]
    assert "(N, 12, 4, 4)" in texts[1]
    assert "body.0, body.1" in texts[1]


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "replace"},
        {"kind": "replace", "operators": [{"at": {}, "operator": "silu", "by": "relu"}]},
        {"kind": "replace", "operators": [{"at": 1, "operator": "silu", "by": "avg_pool"}]},
        {"kind": "remove", "parts": []},
        {"kind": "remove", "parts": [{"block": "a", "entry": {"module": "a"}, "exit": {}}]},
    ],
)
def test_damaged_edits_are_input_errors(document: dict[str, object]) -> None:
    """Promise: whatever stands in model.json, reading it ends in an error of three lines."""
    with pytest.raises(InputError, match="cannot be read"):
        edits_from_json([document])


def test_edits_of_another_model_are_input_errors(traced: Traced) -> None:
    """Promise: an edit whose place is not there names the nearest one; one that finds another operator says so."""
    gm, _, _ = traced
    swaps, _ = find_swaps(gm, [replacement("silu", "relu", "body.0")])
    (document,) = edits_to_json([Replace(swaps=tuple(swaps))])
    edits: list[tuple[Edit, ...]] = []
    for module, operator in (("body.9.act", "silu"), ("body.0.norm", "group_norm")):
        other = copy.deepcopy(document)
        other["operators"][0]["at"] |= {"module": module, "operator": operator}  # type: ignore[index]
        edits.append(edits_from_json([other]))
    for edit in edits:
        with pytest.raises(InputError, match="do not fit"):
            apply_edits(gm, edit)
