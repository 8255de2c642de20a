"""Small nets whose blocks can be dropped."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from pipeline.graph import copy_graph, trace

if TYPE_CHECKING:
    from collections.abc import Callable


class Attention(nn.Module):
    """Hand-written, two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class PreNormBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            nn.LayerNorm(width),
            Attention(width),
            nn.LayerNorm(width),
            mlp(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Three pre-norm blocks with two branches each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.ModuleList(PreNormBlock(8) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class LoopedViT(nn.Module):
    """The branches are added in one loop over all layers, each behind a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Sequential(nn.LayerNorm(8), Attention(8)), nn.Sequential(nn.LayerNorm(8), mlp(8))])
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return self.head(x.mean(1))


class Shared(nn.Module):
    """One block called three times, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(6, 8), PreNormBlock(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(3):
            x = self.block(x)
        return self.head(x.mean(1))


class BertSelfOutput(nn.Module):
    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(size, width), nn.LayerNorm(width)

    def forward(self, hidden: Tensor, given: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(hidden) + given)


class BertAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = BertSelfOutput(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) + mask
        return self.output(scores.softmax(-1) @ self.value(x), x)


class BertLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = BertAttention(width)
        self.intermediate, self.output = nn.Linear(width, 2 * width), BertSelfOutput(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.output(F.gelu(self.intermediate(x)), x)


class Bert(nn.Module):
    """Post-norm: the additions are made inside small output modules, and a mask goes into every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.layer = nn.ModuleList(BertLayer(8) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = (x.mean(-1) < 0).to(x.dtype).unsqueeze(1) * -1e4
        x = self.embed(x)
        for layer in self.layer:
            x = layer(x, mask)
        return self.head(x[:, 0])


class BasicBlock(nn.Module):
    """As torchvision's: in-place, the activation after the addition."""

    def __init__(self, given: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(given, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Conv2d(given, width, 1, stride) if stride != 1 or given != width else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(F.relu(self.stem(x)))).mean((2, 3)))


class InvertedResidual(nn.Module):
    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        inner = 2 * given
        self.adds = given == width and stride == 1
        self.conv = nn.Sequential(
            nn.Conv2d(given, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            InvertedResidual(8, 8, 1),
            InvertedResidual(8, 12, 2),
            InvertedResidual(12, 12, 1),
        )
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class ResponseNorm(nn.Module):
    """ConvNeXt V2's: a residual of its own within the block's branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.pw1, self.grn, self.pw2 = nn.Linear(width, 4 * width), ResponseNorm(4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.pw2(self.grn(F.gelu(self.pw1(y))))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), ConvNeXtBlock(8), nn.Conv2d(8, 16, 2, 2), ConvNeXtBlock(16), ConvNeXtBlock(16)
        )
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(x).mean((2, 3)))


class LongSkip(nn.Module):
    """A skip around everything, and blocks inside: the blocks are what can be dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8), BasicBlock(8, 8))
        self.fuse, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc((x + self.fuse(self.body(x))).mean((2, 3)))


class Row(nn.Module):
    """Convolutions and residual blocks in any order."""

    def __init__(self, kinds: list[int]) -> None:
        super().__init__()
        width, parts = 4, []
        for kind in kinds:
            out = width if kind else width + 2
            parts.append([nn.Conv2d(width, out, 1), BasicBlock(width, width), nn.BatchNorm2d(width)][kind])
            width = out
        self.parts = nn.Sequential(nn.Conv2d(3, 4, 1), *parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


IMAGE, TOKENS = (3, 16, 16), (5, 6)
NETS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "vit": (ViT, TOKENS),
    "looped vit": (LoopedViT, TOKENS),
    "shared": (Shared, TOKENS),
    "bert": (Bert, TOKENS),
    "resnet": (ResNet, IMAGE),
    "mobilenet v2": (MobileNetV2, IMAGE),
    "convnext v2": (ConvNeXt, IMAGE),
    "long skip": (LongSkip, IMAGE),
}


@pytest.fixture(scope="session")
def build() -> Callable[[str], tuple[fx.GraphModule, nn.Module, Tensor]]:
    """Graph, model and samples of a net by its name, in double precision."""

    @cache
    def traced(name: str) -> tuple[fx.GraphModule, nn.Module, Tensor]:
        torch.manual_seed(0)
        kind, shape = NETS[name]
        model = kind().double().eval()
        x = torch.randn(3, *shape, dtype=torch.float64)
        return trace(copy.deepcopy(model), {"x": x}), model, x

    def made(name: str) -> tuple[fx.GraphModule, nn.Module, Tensor]:
        gm, model, x = traced(name)
        return copy_graph(gm), copy.deepcopy(model), x

    return made


@pytest.fixture(scope="session")
def row() -> type[Row]:
    """Nets of layers and blocks in any order."""
    return Row
