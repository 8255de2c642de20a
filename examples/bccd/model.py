"""An anchor-free single-stage detector: every cell of one grid says what it sees and how far its box reaches."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Module):
    """A 3x3 convolution, normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        return functional.relu(self.bn(self.conv(x)))


class Detector(nn.Module):
    """A strided body to stride 16, one step back up to stride 8, two heads there."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, width, 2), ConvNorm(width, 2 * width, 2))
        self.middle = nn.Sequential(ConvNorm(2 * width, 4 * width, 2), ConvNorm(4 * width, 4 * width))
        self.deep = nn.Sequential(ConvNorm(4 * width, 8 * width, 2), ConvNorm(8 * width, 8 * width))
        self.side, self.up = nn.Conv2d(4 * width, 4 * width, 1), nn.Conv2d(8 * width, 4 * width, 1)
        self.neck = ConvNorm(4 * width, 4 * width)
        self.what, self.where = ConvNorm(4 * width, 4 * width), ConvNorm(4 * width, 4 * width)
        self.logits, self.reaches = nn.Conv2d(4 * width, classes, 1), nn.Conv2d(4 * width, 4, 1)
        nn.init.constant_(self.logits.bias, -4.0)  # at first nearly nothing is there
        nn.init.constant_(self.reaches.bias, 2.0)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) to logits (N, classes, H / 8, W / 8) and reaches (N, 4, H / 8, W / 8) in cells."""
        middle = self.middle(self.stem(image))
        deep = functional.interpolate(self.up(self.deep(middle)), size=middle.shape[2:], mode="nearest")
        x = self.neck(functional.relu(self.side(middle) + deep))
        return self.logits(self.what(x)), functional.relu(self.reaches(self.where(x)))


def cell_detector(classes: int = 3, width: int = 12) -> nn.Module:
    """The untrained network."""
    return Detector(classes, width)
