"""ResNet-18 (He et al., 2016) with random weights and normalised activations, as ONNX at 224 x 224."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
BLOCKS = 2


def _conv(inner: int, outer: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inner, outer, kernel, stride, (kernel - 1) // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(outer))


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(inner, outer, 3, stride), nn.ReLU(), _conv(outer, outer))
        self.skip = nn.Identity() if stride == 1 and inner == outer else _conv(inner, outer, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual."""
        return torch.relu(self.body(x) + self.skip(x))


def write_resnet(path: Path) -> None:
    """Writes the model; batch normalisation has seen a few random batches, so activations have a sane size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for outer, stride in STAGES:
        for index in range(BLOCKS):
            layers.append(_Block(inner, outer, stride if index == 0 else 1))
            inner = outer
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
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
