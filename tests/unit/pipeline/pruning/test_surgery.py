"""The promise of surgery: the small network computes what the dense one computes with blind consumers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from pipeline.graph import trace
from pipeline.pruning import Decisions, Kept, PruningGraph, apply_decisions, find_groups, mask_decisions
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def conv(i: int, o: int, *, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1, groups=groups, bias=bias)


class Plain(nn.Module):
    """Two convolutions with bias and batch norm, flattened (C, H, W) to linear."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1, self.c2, self.b2 = conv(3, 8), nn.BatchNorm2d(8), conv(8, 12), nn.BatchNorm2d(12)
        self.f1, self.f2 = nn.Linear(12 * 4 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b1(self.c1(x))), 2)
        x = F.avg_pool2d(F.relu(self.b2(self.c2(x))), 2)
        return self.f2(torch.sigmoid(self.f1(x.view(x.size(0), -1))))


class Residual(nn.Module):
    """Residual blocks, one with a 1x1 shortcut and a batch norm after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.short = conv(3, 8), conv(8, 8), conv(8, 12), nn.Conv2d(8, 12, 1)
        self.bn, self.c, self.fc = nn.BatchNorm2d(12), conv(12, 12, bias=False), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        x = F.gelu(x + self.a(x))
        x = self.bn(self.b(x) + self.short(x))
        x += self.c(torch.sigmoid(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PaddedBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.pad = (o - i) // 2 if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return F.relu(out + short)


class PaddedResNet(nn.Module):
    """The CIFAR ResNet: shortcuts that skip pixels and pad channels with zeros."""

    def __init__(self, blocks: int = 3, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        layers, i = [], widths[0]
        for stage, o in enumerate(widths):
            for block in range(blocks):
                layers.append(PaddedBlock(i, o, 2 if stage and not block else 1))
                i = o
        self.layers, self.linear = nn.Sequential(*layers), nn.Linear(i, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class Dense(nn.Module):
    """Concatenated features, batch norm over the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 6)
        self.bns = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(conv(6 + 4 * i, 4) for i in range(3))
        self.fc = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for bn, c in zip(self.bns, self.convs, strict=True):
            x = torch.cat([x, c(torch.relu(bn(x)))], 1)
        return self.fc(x.mean((2, 3)))


class Mobile(nn.Module):
    """Inverted residuals with depthwise convolutions (one with a channel multiplier) and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.bn1 = conv(3, 8), nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.dw, self.bn2 = conv(24, 24, groups=24, bias=False), nn.BatchNorm2d(24)
        self.down, self.bn3 = nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.multiply, self.fc = conv(8, 16, groups=8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = F.relu6(self.bn2(self.dw(F.relu6(self.bn1(self.up(x))))), inplace=True)
        x = x + self.bn3(self.down(y))
        return self.fc(F.hardswish(self.multiply(x)).mean([2, 3]))


class Squeeze(nn.Module):
    """A squeeze-and-excitation gate, a gate of one channel, and a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.r, self.e, self.s, self.d = (
            conv(3, 8),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1),
            conv(8, 1),
            conv(8, 6),
        )
        self.gamma, self.fc = nn.Parameter(torch.randn(6, 1, 1)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        x = x * torch.sigmoid(self.e(F.relu(self.r(F.adaptive_avg_pool2d(x, 1)))))
        x = x * torch.sigmoid(self.s(x))
        return self.fc((self.d(x) * self.gamma).amax((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions and a channel shuffle written with views."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.h, self.fc = conv(3, 12), conv(12, 24, groups=3), conv(24, 12, groups=4), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.g(F.relu(self.a(x))))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(F.elu(self.h(x)).mean((-1, -2)))


class Mlp(nn.Module):
    """Linear layers, in-place activations, dropout, log-softmax on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 16 * 16, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.BatchNorm1d(16),
            nn.Linear(16, 12), nn.Tanh(), nn.PReLU(12), nn.Linear(12, 5), nn.LogSoftmax(1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class OneD(nn.Module):
    """Convolutions over time, gated linear unit, chunk and unsqueeze."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(48, 12, 3, padding=1), nn.Conv1d(12, 16, 3), nn.Conv1d(8, 8, 1)
        self.d, self.fc = nn.Conv1d(4, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.b(F.relu(self.a(x.flatten(1, 2)))), 1)
        left, right = self.c(x).chunk(2, dim=1)
        return self.fc(self.d(left * right + left).unsqueeze(2).squeeze(2).mean(-1))


class UNet(nn.Module):
    """Down, up by transposed convolution and by interpolation, skips by concatenation, a dense output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 6), conv(6, 8), conv(8, 10)
        self.up, self.d, self.e, self.out = (
            nn.ConvTranspose2d(10, 8, 2, 2),
            conv(16, 8),
            conv(14, 6),
            nn.Conv2d(6, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        d = torch.cat([self.up(F.relu(self.c(F.max_pool2d(b, 2)))), b], dim=1)
        d = F.interpolate(F.relu(self.d(d)), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(F.relu(self.e(torch.cat((d, a), 1))))


class Heads(nn.Module):
    """Two outputs in a dict, slices of channels, and channels nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 12), conv(5, 6), conv(7, 6)
        self.f, self.g = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.a(x))
        left, right = self.b(x[:, :5]).mean((2, 3)), self.c(x[:, 5:]).mean((2, 3))
        return {"left": self.f(left), "right": self.g(right)}


class Shared(nn.Module):
    """One convolution called twice in a row, and once more beside another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.other, self.fc = conv(3, 8), conv(8, 8), conv(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.shared(F.relu(self.shared(x)))) + x
        return self.fc(self.other(x).mean((2, 3)))


class Tied(nn.Module):
    """Two linear layers with one weight, between plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b, self.o = nn.Linear(768, 8), nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 5)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.i(x.reshape(-1, 768)))
        return self.o(torch.sigmoid(self.a(x)) - self.b(x))


class Padded(nn.Module):
    """Padding that no channel shares, an in-place write, stacked and permuted features, matmul with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), conv(10, 8)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(12))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.pad(self.a(x), (1, 1, 0, 0, 1, 3), value=0.5))
        x = x.permute(0, 2, 3, 1).mean((1, 2)) @ self.weight + self.bias
        y = torch.stack([x, x.exp().clamp(max=3.0)], 2).flip(1)
        return self.fc(y.transpose(1, 2).flatten(1))


class Shuffle(nn.Module):
    """Pixel shuffle, grouped transposed convolution, a constant joined in, expand and repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.b = conv(3, 16), nn.ConvTranspose2d(4, 8, 2, 2, groups=2), conv(8, 8)
        self.s, self.fc = nn.Linear(8, 8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.pixel_shuffle(self.a(x), 2))
        x = x + torch.cat([self.b(x)[:, :6], torch.ones(x.shape[0], 2, *x.shape[2:], dtype=x.dtype)], 1)
        gate = self.s(x.mean((2, 3)))[:, :, None, None].expand(-1, 8, x.shape[2], x.shape[3])
        return self.fc((x * gate).mean((2, 3)).repeat(1, 2))


ZOO: dict[str, Callable[[], nn.Module]] = {
    cls.__name__: cls
    for cls in (
        Plain, Residual, PaddedResNet, Dense, Mobile, Squeeze, Grouped, Mlp, OneD, UNet, Heads, Shared, Tied, Padded,
        Shuffle,
    )
}  # fmt: skip


def build(name: str) -> tuple[fx.GraphModule, Tensor]:
    """A net in double precision with batch norms that do something, and its input."""
    torch.manual_seed(0)
    net = ZOO[name]().double()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    return trace(net, {"x": x}), x


def remove(graph: PruningGraph, share: float, seed: int) -> Decisions:
    """A random part of each group's units, at least one kept; ``share`` 1 keeps exactly one."""
    rng = np.random.default_rng(seed)
    return graph.decide(
        {g.name: rng.permutation(g.size)[: min(g.size - 1, max(1, round(share * g.size)))] for g in graph.groups}
    )


def outputs(gm: fx.GraphModule, x: Tensor) -> list[Tensor]:
    out = gm(x)
    return list(out.values()) if isinstance(out, dict) else [out]


@pytest.mark.parametrize("name", ZOO)
def test_small_equals_blinded_dense(name: str) -> None:
    """Small and masked dense agree to 1e-9 in double precision at batch 1 and 3; small trains; the original stays."""
    gm, _ = build(name)
    graph = find_groups(gm)
    assert graph.groups
    before = {k: v.clone() for k, v in gm.state_dict().items()}
    for share in (0.5, 1.0):
        decisions = remove(graph, share, seed=round(10 * share))
        small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in gm.parameters())
        for batch in (1, 3):
            x = torch.randn(batch, 3, 16, 16, dtype=torch.float64)
            for a, b in zip(outputs(small, x), outputs(masked, x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        sum(out.square().sum() for out in outputs(small, x)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
    assert all(torch.equal(before[k], v) for k, v in gm.state_dict().items())


@pytest.mark.parametrize("name", ["Grouped", "Heads"])
def test_small_exports_to_onnx(name: str) -> None:
    """The small graph goes through torch's ONNX exporter with a free batch axis."""
    gm, x = build(name)
    small = apply_decisions(gm, remove(find_groups(gm), 0.5, seed=4)).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            small, (x.float(),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
        )
    assert program is not None
    shape = program.model.graph.inputs[0].shape
    assert shape is not None
    assert not isinstance(shape[0], int)


def test_small_can_be_pruned_again() -> None:
    """Surgery renews the metadata, so groups are found on its result, and the promise holds a second time."""
    gm, x = build("UNet")
    small = apply_decisions(gm, remove(find_groups(gm), 0.4, seed=5))
    decisions = remove(find_groups(small), 0.5, seed=6)
    torch.testing.assert_close(apply_decisions(small, decisions)(x), mask_decisions(small, decisions)(x))


@pytest.mark.parametrize("name", ["PaddedResNet", "UNet", "Grouped"])
def test_the_original_keeps_its_free_batch(name: str) -> None:
    """Surgery on a copy fixes nothing in the graph it was copied from: that one still takes batches of any size."""
    gm, x = build(name)
    decisions = remove(find_groups(gm), 0.5, seed=4)
    apply_decisions(gm, decisions)
    mask_decisions(gm, decisions)
    for batch in (1, 3, 7):
        assert len(_first(gm(torch.cat([x] * batch)[:batch]))) == batch


def _first(answer: object) -> Tensor:
    found = answer[0] if isinstance(answer, tuple | list) else answer
    assert isinstance(found, Tensor)
    return found


def test_decisions_replay_on_a_new_trace() -> None:
    """Decisions that went through JSON cut a freshly traced model exactly as they cut the first."""
    gm, x = build("Dense")
    decisions = remove(find_groups(gm), 0.5, seed=7)
    again = apply_decisions(build("Dense")[0], Decisions.from_json(decisions.to_json()))
    torch.testing.assert_close(again(x), apply_decisions(gm, decisions)(x), rtol=0, atol=0)


def test_ties_and_trainability_survive() -> None:
    """Tied weights are one tensor after surgery, and a frozen parameter stays frozen."""
    gm, _ = build("Tied")
    gm.get_parameter("i.bias").requires_grad_(False)  # noqa: FBT003  (torch's own signature)
    small = apply_decisions(gm, remove(find_groups(gm), 0.5, seed=8))
    assert small.get_parameter("a.weight") is small.get_parameter("b.weight")
    assert small.get_parameter("a.weight").shape == (6, 4)
    assert not small.get_parameter("i.bias").requires_grad


class Constant(nn.Module):
    """A constant tensor that is neither parameter nor buffer scales the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.fc = conv(3, 8), torch.arange(8.0).view(8, 1, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.a(x) * self.scale).mean((2, 3)))


def test_constants_are_cut_too() -> None:
    """A plain tensor attribute loses the same indices as the channels it scales."""
    gm = trace(Constant(), {"x": torch.randn(2, 3, 8, 8)})
    graph = find_groups(gm)
    decisions = remove(graph, 0.5, seed=9)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(apply_decisions(gm, decisions)(x), mask_decisions(gm, decisions)(x))


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        ({"c9.weight": {0: Kept(size=8, kept=(0,))}}, "c1.weight"),
        ({"c1.weight": {0: Kept(size=9, kept=(0,))}}, "has 8 indices here"),
        ({"c1.weight": {0: Kept(size=8, kept=(0, 1))}}, "has to lose 6 indices"),
        ({"f2.weight": {0: Kept(size=5, kept=(0, 1))}}, "have to stay"),
    ],
)
def test_refuses_decisions_of_another_model(parameters: dict[str, dict[int, Kept]], hint: str) -> None:
    """Unknown names, other sizes, half-cut units and protected outputs are input errors that say which."""
    gm, _ = build("Plain")
    with pytest.raises(InputError) as caught:
        apply_decisions(gm, Decisions(parameters=parameters))
    assert hint in caught.value.why


class Random(nn.Module):
    """A random graph of convolutions, sums, concatenations, pools, gates and slices, from a list of choices."""

    def __init__(self, choices: list[tuple[int, int]]) -> None:
        super().__init__()
        self.choices, self.parts, width = choices, nn.ModuleList(), 4
        for kind, size in choices:
            made, width = self._part(kind % 8, 2 * size, width)
            self.parts.append(made)
        self.head = nn.Linear(4 * width, 3)

    @staticmethod
    def _part(  # noqa: PLR0911  (one line a kind)
        kind: int, size: int, width: int
    ) -> tuple[nn.Module, int]:
        if kind == 0:
            return conv(width, size), size
        if kind == 1:
            return nn.Sequential(
                conv(width, size, bias=False), nn.BatchNorm2d(size), nn.Sigmoid(), conv(size, width)
            ), width
        if kind == 2:
            return conv(width, size), width + size
        if kind == 3:
            return conv(width, width, groups=width), width
        if kind == 4:
            return nn.Conv2d(width, width, 1), width
        if kind == 5 and width % 2 == 0:
            return conv(width, size, groups=2), size
        if kind == 6:
            return nn.BatchNorm2d(width), width + size
        return nn.PReLU(width), width

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :1] * 0.5], 1)
        for (kind, size), part in zip(self.choices, self.parts, strict=True):
            x = self._step(kind % 8, 2 * size, part, x)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))

    @staticmethod
    def _step(kind: int, size: int, part: nn.Module, x: Tensor) -> Tensor:
        if kind == 1:
            return x + part(x)
        if kind == 2:
            return torch.cat([x, F.relu(part(x))], 1)
        if kind == 4:
            return x * torch.sigmoid(part(x.mean((2, 3), keepdim=True)))
        if kind == 6:
            return F.pad(torch.tanh(part(x)), (0, 0, 0, 0, size // 2, size - size // 2))
        return part(x)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    choices=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4)), min_size=1, max_size=7),
    share=st.sampled_from([0.2, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_promise_on_random_graphs(choices: list[tuple[int, int]], share: float, seed: int) -> None:
    """Whatever the graph and whatever goes, small equals blinded dense."""
    torch.manual_seed(seed)
    gm = trace(Random([(0, 3), *choices]).double(), {"x": torch.randn(2, 3, 6, 6, dtype=torch.float64)})
    graph = find_groups(gm)
    decisions = remove(graph, share, seed)
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        apply_decisions(gm, decisions)(x), mask_decisions(gm, decisions)(x), rtol=1e-9, atol=1e-9
    )
