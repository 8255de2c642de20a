"""A small U-Net (Ronneberger et al., arXiv 1505.04597): down twice, up twice, with the finer maps passed across."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Double(nn.Module):
    """Two 3x3 convolutions, each with normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)))


class UNet(nn.Module):
    """Three scales."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.down1, self.down2 = Double(3, width), Double(width, 2 * width)
        self.bottom = Double(2 * width, 4 * width)
        self.up2, self.up1 = Double(6 * width, 2 * width), Double(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes, H, W); H and W are multiples of 4."""
        fine = self.down1(image)
        middle = self.down2(functional.max_pool2d(fine, 2))
        coarse = self.bottom(functional.max_pool2d(middle, 2))
        x = self.up2(torch.cat([middle, functional.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1))
        x = self.up1(torch.cat([fine, functional.interpolate(x, scale_factor=2.0, mode="nearest")], dim=1))
        return self.head(x)


def unet(classes: int = 4, width: int = 12) -> nn.Module:
    """The untrained network."""
    return UNet(classes, width)
