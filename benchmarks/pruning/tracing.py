"""How long tracing, finding groups and applying decisions take. ``tracing.py [--repeat N]``; the goal is under 5 s.

Nets of 50 layers and more, in their full width: ResNet-50, MobileNetV2 and a 12-layer BERT encoder, built here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.graph import trace
from pipeline.pruning import apply_decisions, find_groups

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "unit" / "pipeline" / "pruning" / "zoo"))
import architectures

convolutional, attention = architectures.convolutional, architectures.attention


def resnet50() -> nn.Module:
    """16 bottleneck blocks: 53 convolutions and a linear layer."""
    net, i, blocks = convolutional.ResNet(), 64, []
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(count):
            blocks.append(convolutional.Bottleneck(i, width, 4 * width, stride if block == 0 else 1, 1))
            i = 4 * width
    net.stem, net.blocks, net.fc = convolutional.conv_bn(3, 64, 7, 2), nn.Sequential(*blocks), nn.Linear(i, 1000)
    return net


def mobilenet() -> nn.Module:
    """17 inverted residuals: 52 convolutions and a linear layer."""
    net, i, blocks = convolutional.MobileNetV2(), 32, []
    for expand, o, count in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(count):
            blocks.append(convolutional.Inverted(i, expand * i, o, nn.ReLU6))
            i = o
    net.stem, net.blocks = convolutional.conv_bn(3, 32, 3, 2), nn.Sequential(*blocks)
    net.last, net.fc = convolutional.conv_bn(i, 1280, 1), nn.Linear(1280, 1000)
    return net


def bert() -> nn.Module:
    """12 layers of 768 features and 12 heads: 74 linear layers."""
    net = attention.Bert()
    net.words, net.segments, net.positions = nn.Embedding(30000, 768), nn.Embedding(2, 768), nn.Embedding(10, 768)
    net.norm, net.layers = nn.LayerNorm(768), nn.ModuleList(attention.BertLayer(768, 12) for _ in range(12))
    net.pooler, net.classifier = nn.Linear(768, 768), nn.Linear(768, 3)
    return net


def once(model: nn.Module, example: dict[str, torch.Tensor]) -> dict[str, float]:
    """Seconds of each step, and the shares of parameters and groups."""
    began, marks = time.process_time(), [time.perf_counter()]
    gm = trace(model, example)
    marks.append(time.perf_counter())
    graph = find_groups(gm)
    rng = np.random.default_rng(0)
    decisions = graph.decide({group.name: rng.permutation(group.size)[: group.size // 2] for group in graph})
    marks.append(time.perf_counter())
    small = apply_decisions(gm, decisions)
    marks.append(time.perf_counter())
    used = time.process_time() - began
    left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in gm.parameters())
    steps = dict(zip(("trace_s", "find_s", "apply_s"), np.diff(marks).tolist(), strict=True))
    return {**steps, "total_s": marks[-1] - marks[0], "cpu_s": used, "groups": len(graph.groups), "left": left}


def main() -> None:
    """Prints the median of each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    image = {"x": torch.randn(2, 3, 224, 224)}
    small = {"x": torch.randn(2, 3, 56, 56)}  # it has one stride only: at 224 a run is 16 times the real one
    once(architectures.build("Vgg"), architectures.inputs("Vgg", 2))  # imports of torch.export are not counted
    for name, make, example in (
        ("resnet50", resnet50, image),
        ("mobilenetv2", mobilenet, small),
        ("bert-12", bert, architectures.inputs("Bert", 2)),
    ):
        rows = [once(make().eval(), example) for _ in range(repeat)]
        print(name, {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}, flush=True)


if __name__ == "__main__":
    main()
