"""Small convolutional networks, each with the shape of a well-known one. Needs nothing but torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn


def conv_bn(
    i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), act())


class Vgg(nn.Module):
    """Plain convolutions, flattened (C, H, W) into linear layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 12), conv_bn(12, 16), nn.MaxPool2d(2), conv_bn(16, 16), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Linear(256, 24), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(24, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class PaddedBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(i, o, stride=stride), conv_bn(o, o, act=nn.Identity)
        self.pad = (o - i) // 2 if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return F.relu(self.conv2(self.conv1(x)) + short)


class PaddedResNet(nn.Module):
    """ResNet for CIFAR: shortcuts that skip pixels and pad channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(PaddedBlock(8, 8, 1), PaddedBlock(8, 16, 2), PaddedBlock(16, 24, 2))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class Bottleneck(nn.Module):
    def __init__(self, i: int, width: int, o: int, stride: int, groups: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(i, width, 1), conv_bn(width, width, 3, stride, groups)
        self.c = conv_bn(width, o, 1, act=nn.Identity)
        self.short = conv_bn(i, o, 1, stride, act=nn.Identity) if i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.b(self.a(x)))
        y += self.short(x)
        return F.relu_(y)


class ResNet(nn.Module):
    """Bottleneck blocks with projected shortcuts, ``groups`` as in ResNeXt."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(
            Bottleneck(8, 8, 16, 1, groups), Bottleneck(16, 8, 16, 1, groups), Bottleneck(16, 16, 24, 2, groups)
        )
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean([2, 3]))


class ResNeXt(ResNet):
    """Grouped convolutions inside bottleneck blocks."""

    def __init__(self) -> None:
        super().__init__(groups=4)


class DenseNet(nn.Module):
    """Concatenated features, batch norm before convolution, transitions that halve."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bns = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1, bias=False) for i in range(3))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(26), nn.ReLU(), nn.Conv2d(26, 12, 1, bias=False), nn.AvgPool2d(2)
        )
        self.norm, self.fc = nn.BatchNorm2d(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for bn, conv in zip(self.bns, self.convs, strict=True):
            features.append(conv(F.relu(bn(torch.cat(features, 1)))))
        x = F.relu(self.norm(self.transition(torch.cat(features, 1))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(width, width, 1, groups=groups), conv_bn(width, width, groups=width, act=nn.Identity)
        self.c, self.groups = conv_bn(width, width, 1, groups=groups, act=nn.Identity), groups

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.c(self.b(shuffled(self.a(x), self.groups))))


class ShuffleNet(nn.Module):
    """ShuffleNet: grouped 1x1 convolutions and a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.units = conv_bn(3, 24), nn.Sequential(ShuffleUnit(24, 3), ShuffleUnit(24, 2))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.units(self.stem(x)).mean((2, 3)))


class SplitUnit(nn.Module):
    def __init__(self, half: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_bn(half, half, 1), conv_bn(half, half, groups=half, act=nn.Identity), conv_bn(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return shuffled(torch.cat((left, self.branch(right)), dim=1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2: half the channels pass by, then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.units = conv_bn(3, 16), nn.Sequential(SplitUnit(8), SplitUnit(8), SplitUnit(8))
        self.last, self.fc = conv_bn(16, 20, 1), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.units(self.stem(x))).mean([2, 3]))


class Squeeze(nn.Module):
    """Squeeze and excitation: a gate of its own for each channel."""

    def __init__(self, width: int, reduced: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool, self.fc1, self.fc2 = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, reduced, 1),
            nn.Conv2d(reduced, width, 1),
        )
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(F.relu(self.fc1(self.pool(x)))))


class Inverted(nn.Module):
    def __init__(self, i: int, wide: int, o: int, act: type[nn.Module], squeeze: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.depthwise = conv_bn(i, wide, 1, act=act), conv_bn(wide, wide, groups=wide, act=act)
        self.squeeze = nn.Identity() if squeeze is None else squeeze
        self.down, self.skip = conv_bn(wide, o, 1, act=nn.Identity), i == o

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.squeeze(self.depthwise(self.up(x))))
        return x + y if self.skip else y


class MobileNetV2(nn.Module):
    """Inverted residuals with depthwise convolutions and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2, act=nn.ReLU6)
        self.blocks = nn.Sequential(*(Inverted(i, 24, o, nn.ReLU6) for i, o in ((8, 8), (8, 12), (12, 12))))
        self.last, self.fc = conv_bn(12, 20, 1, act=nn.ReLU6), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), (1, 1)).reshape(x.shape[0], -1))


class MobileNetV3(nn.Module):
    """Hard-swish and hard-sigmoid gates, squeeze and excitation inside the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2, act=nn.Hardswish)
        self.blocks = nn.Sequential(
            Inverted(8, 16, 8, nn.ReLU, Squeeze(16, 8, nn.Hardsigmoid())),
            Inverted(8, 24, 12, nn.Hardswish, Squeeze(24, 8, nn.Hardsigmoid())),
        )
        self.head = nn.Sequential(nn.Linear(12, 20), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1), 1))


class EfficientNet(nn.Module):
    """SiLU, squeeze and excitation, a channel multiplier in the first depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.multiply = conv_bn(3, 8, act=nn.SiLU), nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.blocks = nn.Sequential(
            Inverted(16, 24, 16, nn.SiLU, Squeeze(24, 4, nn.Sigmoid())),
            Inverted(16, 32, 24, nn.SiLU, Squeeze(32, 4, nn.Sigmoid())),
        )
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(F.silu(self.multiply(self.stem(x)), inplace=True)).mean((-2, -1)))


class Mixed(nn.Module):
    def __init__(self, i: int, width: int) -> None:
        super().__init__()
        self.one, self.three = conv_bn(i, width, 1), nn.Sequential(conv_bn(i, width, 1), conv_bn(width, width))
        self.five, self.pool = nn.Sequential(conv_bn(i, 6, 1), conv_bn(6, 6, 5)), conv_bn(i, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)


class Inception(nn.Module):
    """Parallel branches of several kernel sizes, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed = conv_bn(3, 8), nn.Sequential(Mixed(8, 8), Mixed(28, 8))
        self.fc = nn.Linear(28, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mixed(self.stem(x)).mean((2, 3)))


class UNet(nn.Module):
    """Down; up by transposed convolution and by interpolation; skips by concatenation; a dense output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 6), conv_bn(6, 8), conv_bn(8, 12)
        self.up, self.d, self.e = nn.ConvTranspose2d(12, 8, 2, 2), conv_bn(16, 8), conv_bn(14, 6)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        d = self.d(torch.cat([self.up(self.c(F.max_pool2d(b, 2))), b], dim=1))
        up = F.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(self.e(torch.cat((up, a), 1)))


class FpnDetector(nn.Module):
    """A pyramid with lateral convolutions, and one shared head that gives boxes and classes at each level."""

    def __init__(self) -> None:
        super().__init__()
        self.c3, self.c4, self.c5 = conv_bn(3, 8, 3, 2), conv_bn(8, 12, 3, 2), conv_bn(12, 16, 3, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 12, 1) for c in (8, 12, 16))
        self.smooth = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(3))
        self.tower = nn.Sequential(conv_bn(12, 12), conv_bn(12, 12))
        self.classes, self.boxes = nn.Conv2d(12, 2 * 3, 3, padding=1), nn.Conv2d(12, 2 * 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c3 = self.c3(x)
        c4 = self.c4(c3)
        levels = [lateral(c) for lateral, c in zip(self.lateral, (c3, c4, self.c5(c4)), strict=True)]
        for level in (1, 0):
            levels[level] = levels[level] + F.interpolate(
                levels[level + 1], size=levels[level].shape[2:], mode="nearest"
            )
        classes, boxes = [], []
        for smooth, level in zip(self.smooth, levels, strict=True):
            y = self.tower(smooth(level))
            n, _, h, w = y.shape
            classes.append(self.classes(y).view(n, 2, 3, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 3))
            boxes.append(self.boxes(y).view(n, 2, 4, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 4))
        return torch.cat(classes, 1), torch.cat(boxes, 1).exp()


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Depthwise 7x7, layer norm over channels in the last place, a learned scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.Sequential(ConvNeXtBlock(8), ConvNeXtBlock(8))
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.blocks(self.stem(x)).mean([-2, -1])))


class GroupNormNet(nn.Module):
    """Group norm, instance norm and parametric ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gn = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.b, self.norm, self.act = nn.Conv2d(16, 12, 3, padding=1), nn.InstanceNorm2d(12, affine=True), nn.PReLU(12)
        self.c, self.single, self.fc = nn.Conv2d(12, 12, 3, padding=1), nn.GroupNorm(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.b(F.relu(self.gn(self.a(x))))))
        return self.fc(F.relu(self.single(self.c(x))).amax((2, 3)))


class DeepLab(nn.Module):
    """Atrous pyramid: dilated branches and one pooled to a point, resized and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12, 3, 2)
        self.branches = nn.ModuleList(nn.Conv2d(12, 8, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 3))
        self.pooled, self.project = nn.Conv2d(12, 8, 1), conv_bn(32, 12, 1)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        pooled = F.relu(self.pooled(F.adaptive_avg_pool2d(y, 1)))
        parts = [F.relu(branch(y)) for branch in self.branches] + [F.interpolate(pooled, size=y.shape[-2:])]
        logits = self.out(self.project(torch.cat(parts, dim=1)))
        return F.interpolate(logits, size=x.shape[-2:], mode="bicubic", align_corners=True)


class SuperResolution(nn.Module):
    """Residual blocks without norm, up by pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1)) for _ in range(2)
        )
        self.up, self.tail = nn.Conv2d(12, 24, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        for block in self.body:
            y = y + 0.1 * block(y)
        return self.tail(F.leaky_relu(F.pixel_shuffle(self.up(y), 2))).clamp(-1, 1)


class Generator(nn.Module):
    """Transposed convolutions from a latent vector."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 16 * 2 * 2)
        self.up1, self.bn1 = nn.ConvTranspose2d(16, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.up2, self.bn2 = nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=2), nn.BatchNorm2d(8)
        self.out = nn.ConvTranspose2d(8, 3, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.fc(z)).view(-1, 16, 2, 2)
        x = F.relu(self.bn1(self.up1(x)), inplace=True)
        return torch.tanh(self.out(F.relu(self.bn2(self.up2(x)))))


class Video(nn.Module):
    """Convolutions in three dimensions, factored into space and time."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.time = (
            nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(8, 12, (3, 1, 1), padding=(1, 0, 0)),
        )
        self.bn, self.last, self.fc = nn.BatchNorm3d(12), nn.Conv3d(12, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn(self.time(F.relu(self.space(x))))), (1, 2, 2))
        return self.fc(F.adaptive_avg_pool3d(self.last(x), 1).flatten(1))
