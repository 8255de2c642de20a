"""ResNet-20 for CIFAR-10, with parameter-free shortcuts (He et al., arXiv 1512.03385, section 4.2, option A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut takes every second pixel and pads channels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        shortcut = x
        if self.padding:
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(self.bn2(self.conv2(inner)) + shortcut)


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(channels_in, channels_out, stride)]
    blocks += [BasicBlock(channels_out, channels_out, 1) for _ in range(2)]
    return nn.Sequential(*blocks)


class ResNet20(nn.Module):
    """Three stages of three blocks with 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1)
        self.layer2 = _stage(16, 32, 2)
        self.layer3 = _stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 32, 32) to logits (N, 10)."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def resnet20() -> nn.Module:
    """The untrained network."""
    return ResNet20()
