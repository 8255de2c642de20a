"""What the one training loop costs over a hand-written PyTorch loop that does the same work on the same exported graph.

    loop_overhead.py [--pairs 9] [--samples 512] [--width 16]

Both train a residual net on random images for an epoch, taking turns; printed is the median of the ratios and its
bootstrap interval. The work is the same: order, batches, SGD with Nesterov momentum, decay of weights alone, a cosine
with warm-up, the look at each loss, and one switch of mode; nothing is validated.
"""

from __future__ import annotations

import argparse
import copy
import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data import Split
from pipeline.graph import flat_outputs, set_training, trace
from pipeline.training import TrainConfig, fit

BATCH, RATE, DECAY = 64, 0.05, 5e-4


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + x)


class Net(nn.Module):
    """Six blocks at one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(6)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))
        return logits


def by_hand(graph: torch.fx.GraphModule, split: Split) -> None:
    """One epoch of plain PyTorch."""
    parameters = list(graph.parameters())
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=RATE,
        momentum=0.9,
        nesterov=True,
    )
    x, y = torch.from_numpy(split.inputs["x"]), torch.from_numpy(split.labels)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(split)))
    steps = math.ceil(len(split) / BATCH)
    warm = max(1, steps // 10)
    set_training(graph, training=True)
    for step in range(steps):
        share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        rows = order[step * BATCH : (step + 1) * BATCH]
        loss = functional.cross_entropy(flat_outputs(graph(x[rows]))[0], y[rows])
        if not math.isfinite(float(loss.detach())):
            raise SystemExit("the loss is not finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    set_training(graph, training=False)


def by_loop(graph: torch.fx.GraphModule, split: Split) -> None:
    """One epoch of ours."""
    config = TrainConfig(
        epochs=1, batch_size=BATCH, optimizer="sgd", learning_rate=RATE, weight_decay=DECAY, seed=0, threads=1
    )
    fit(
        graph,
        split,
        lambda _i, labels, outputs: functional.cross_entropy(outputs[0], labels),
        config,
        validate=lambda _: 0.0,
        on_epoch=lambda _: None,
    )


def main() -> None:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--width", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((asked.samples, 3, 32, 32), dtype=np.float32)
    split = Split(inputs={"x": images}, labels=rng.integers(0, 10, asked.samples))
    start = trace(Net(asked.width), {"x": torch.zeros(2, 3, 32, 32)})
    ratios, states = [], {}
    for pair in range(asked.pairs + 1):  # the first warms up
        seconds = {}
        for train in (by_hand, by_loop) if pair % 2 else (by_loop, by_hand):
            graph = copy.deepcopy(start)
            begin = time.process_time()
            train(graph, split)
            seconds[train.__name__] = time.process_time() - begin
            states[train.__name__] = graph.state_dict()
        if pair:
            ratios.append(seconds["by_loop"] / seconds["by_hand"])
    same = all(torch.allclose(states["by_hand"][n], t, atol=1e-5) for n, t in states["by_loop"].items())
    draws = np.median(np.random.default_rng(1).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    print(
        f"loop / by hand, CPU time: {np.median(ratios):.3f} [{low:.3f}, {high:.3f}], {len(ratios)} pairs; same: {same}"
    )


if __name__ == "__main__":
    main()
