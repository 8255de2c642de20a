"""MobileNetV2 (Sandler et al., 2018) with random weights and normalised activations, as ONNX at 224 x 224."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inner, outer, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(outer))


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inner * expand
        head = [_conv(inner, wide, 1), nn.ReLU6()] if expand != 1 else []
        self.body = nn.Sequential(*head, _conv(wide, wide, 3, stride, wide), nn.ReLU6(), _conv(wide, outer, 1))
        self.skip = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inverted residual."""
        return x + self.body(x) if self.skip else self.body(x)


def write_mobilenet(path: Path) -> None:
    """Writes the model; batch normalisation has seen a few random batches, so activations have a sane size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [_conv(3, 32, 3, 2), nn.ReLU6()]
    inner = 32
    for expand, outer, count, stride in BLOCKS:
        for index in range(count):
            layers.append(_Block(inner, outer, stride if index == 0 else 1, expand))
            inner = outer
    layers += [_conv(inner, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    net = nn.Sequential(*layers).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 224, 224))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        net.eval(),
        (torch.zeros(2, 3, 224, 224),),
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=[{0: batch}],
        dynamo=True,
        verbose=False,
    )
    program.save(str(path), external_data=False)
