"""DS-CNN for log-mel spectra (Zhang et al., arXiv 1711.07128, section 3): depthwise-separable convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise one, each with normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        x = functional.relu(self.bn1(self.depthwise(x)))
        return functional.relu(self.bn2(self.pointwise(x)))


class DsCnn(nn.Module):
    """A strided stem, four separable blocks, global average pooling, a linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, (5, 4), 2, (2, 1), bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*[Separable(width, width, stride) for stride in (1, 2, 1, 1)])
        self.head = nn.Linear(width, 10)

    def forward(self, spectrum: Tensor) -> Tensor:
        """(N, 1, bands, frames) to logits (N, 10)."""
        x = self.blocks(functional.relu(self.bn(self.stem(spectrum))))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def ds_cnn(width: int = 64) -> nn.Module:
    """The untrained network."""
    return DsCnn(width)
