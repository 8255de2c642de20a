"""Taps give what forward hooks see, and name what there is to tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.graph import copy_graph, set_training, tap_paths, trace, with_taps
from targets.errors import InputError

if TYPE_CHECKING:
    from torch.fx import GraphModule


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(self.bn(self.conv(x))))) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.shared = Block()
        self.layers = nn.Sequential(Block(), Block())
        self.ghost = nn.Identity()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.ghost(self.layers(self.shared(self.shared(self.stem(x)))))
        out, _ = self.gru(x.flatten(2).transpose(1, 2))
        return {"scores": self.head(out.mean(1)), "map": x}


PATHS = ("stem", "shared[0]", "shared[1]", "shared.bn[0]", "shared.conv[2]", "layers", "layers.0", "layers.1.conv[0]",
         "layers.1.bn", "gru", "head", "stem")  # fmt: skip


@pytest.fixture(scope="module")
def traced() -> tuple[Net, GraphModule]:
    torch.manual_seed(0)
    net = Net()
    return net, trace(net, {"x": torch.zeros(2, 3, 8, 8)})


def _hooked(net: nn.Module, x: Tensor, path: str) -> Tensor:
    """What a forward hook of eager torch sees, at once: an operator in place further on writes over it."""
    name, _, call = path.removesuffix("]").partition("[")
    seen: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).clone())  # type: ignore[attr-defined]

    handle = net.get_submodule(name).register_forward_hook(note)
    net(x)
    handle.remove()
    return seen[int(call or 0)]


def test_taps_are_what_hooks_see(traced: tuple[Net, GraphModule]) -> None:
    """Promise: the original outputs come first, then each tap, equal to eager torch, in-place operators or not."""
    net, graph = traced
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        found = with_taps(graph, PATHS)(x)
        expected = [*net(x).values(), *(_hooked(net, x, path) for path in PATHS)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_every_listed_path_can_be_tapped(traced: tuple[Net, GraphModule]) -> None:
    """Promise: what is offered works, and nothing else is needed to know it."""
    _, graph = traced
    paths = tap_paths(graph)
    assert {"stem", "shared[1]", "layers.0.act[1]", "gru"} <= set(paths)
    assert len(with_taps(graph, paths)(torch.randn(2, 3, 8, 8))) == 2 + len(paths)


def test_the_tapped_graph_shares_its_weights_and_no_mode(traced: tuple[Net, GraphModule]) -> None:
    """Promise: training the tapped graph trains the original; their modes are their own; names are equal."""
    graph = copy_graph(traced[1])
    tapped = with_taps(graph, ["layers.0"])
    assert [*dict(tapped.named_parameters())] == [*dict(graph.named_parameters())]
    assert all(one is other for one, other in zip(tapped.parameters(), graph.parameters(), strict=True))
    x = torch.randn(4, 3, 8, 8)
    set_training(tapped, training=True)
    before = graph(x)["scores"]
    assert torch.equal(graph.get_buffer("layers.0.bn.running_mean"), torch.zeros(4))  # the original evaluates
    scores, _, features = tapped(x)
    assert not torch.equal(scores, before)
    assert float(graph.get_buffer("layers.0.bn.running_mean").abs().max()) > 0
    (features.square().sum() + scores.sum()).backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("layers.0.cnv", ("no module 'layers.0.cnv'", "layers.0.conv")),
        ("zzzzzz", ("no module 'zzzzzz'", "known: stem, shared")),
        ("ghost", ("no module 'ghost'", "computes anything")),
        ("", ("no module ''",)),
        ("shared", ("2 times", "shared[0] to shared[1]")),
        ("shared[2]", ("2 times", "shared[0] to shared[1]")),
        ("stem[1]", ("1 time ", "write stem[0]")),
    ],
)
def test_a_wrong_path_is_named_with_near_ones(
    traced: tuple[Net, GraphModule], path: str, words: tuple[str, ...]
) -> None:
    """Promise: whoever mistypes a path learns which ones are near, before anything is trained."""
    with pytest.raises(InputError) as error:
        with_taps(traced[1], [path])
    assert all(word in str(error.value) for word in words)


def test_taps_can_be_tapped_again(traced: tuple[Net, GraphModule]) -> None:
    """Promise: a copy made for a tap is no module's output of its own."""
    once = with_taps(traced[1], ["shared.bn[0]"])
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(with_taps(once, ["shared.bn[0]"])(x)[-1], once(x)[-1])
