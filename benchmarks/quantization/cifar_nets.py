"""The two CIFAR-10 nets for `compare.py`, from trained weights: ResNet-20, and one with depthwise convolutions.

    cifar_nets.py CACHE --images cifar10.npz [--resnet20 W.safetensors] [--depthwise W.safetensors]

Writes ``CACHE/resnet20`` and ``CACHE/depthwise`` as `compare.py` takes them; what is there already is left alone.
Images: an .npz as ``examples/cifar10/data.py`` reads it. Weights: of ``examples/cifar10/model.py``, and of `Depthwise`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[2] / "examples" / "cifar10"))

from data import cifar10
from model import resnet20

CALIBRATION = 512
BLOCKS = ((16, 32, 2), (32, 64, 1), (64, 64, 2), (64, 128, 1), (128, 128, 1), (128, 128, 2), (128, 256, 1))


class Block(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, reads: int, makes: int, stride: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(reads, reads, 3, stride, 1, groups=reads, bias=False)
        self.bn1 = nn.BatchNorm2d(reads)
        self.pw = nn.Conv2d(reads, makes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(makes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, reads, H, W) to (N, makes, H / stride, W / stride)."""
        x = functional.relu6(self.bn1(self.dw(x)))
        return functional.relu6(self.bn2(self.pw(x)))


class Depthwise(nn.Module):
    """A small MobileNetV1-like net (Howard et al., arXiv 1704.04861, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(Block(*sizes) for sizes in BLOCKS))
        self.head = nn.Linear(BLOCKS[-1][1], 10)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 32, 32) to scores (N, 10)."""
        x = self.blocks(functional.relu6(self.bn(self.stem(image))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def main() -> None:
    """Makes what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--resnet20", type=Path)
    parser.add_argument("--depthwise", type=Path)
    asked = parser.parse_args()
    wanted = {"resnet20": (asked.resnet20, resnet20), "depthwise": (asked.depthwise, Depthwise)}
    for name, (weights, net) in wanted.items():
        if weights and not (asked.cache / name / "model.onnx").exists():
            make(asked.cache / name, net(), weights, asked.images)


def make(folder: Path, net: nn.Module, weights: Path, images: Path) -> None:
    """Exports, and writes the samples: calibration from the training images, all test images in one."""
    folder.mkdir(parents=True, exist_ok=True)
    net.load_state_dict(load_file(weights), strict=False)
    net.eval()
    splits = cifar10(images, train=CALIBRATION)
    parts = splits["validation"], splits["test"]
    test, labels = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    calibration = splits["train"][0]
    with torch.no_grad():
        scores = torch.cat([net(torch.from_numpy(test[i : i + 100])) for i in range(0, len(test), 100)])
    print(f"{folder.name}: accuracy {float((scores.argmax(1).numpy() == labels).mean()):.4f} on {len(labels)}")
    program = torch.onnx.export(
        net, (torch.from_numpy(calibration[:2]),), dynamo=True, input_names=["image"], output_names=["scores"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}}, opset_version=20, verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(folder / "model.onnx")
    np.savez(folder / "calibration.npz", image=calibration)
    np.savez(folder / "test.npz", image=test, labels=labels)


if __name__ == "__main__":
    main()
