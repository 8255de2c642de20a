"""torch-pruning on ResNet-20, in an environment of its own: peer_resnet20.py WEIGHTS SAMPLES CRITERION RATIO OUT.

Inner channels of the blocks only: everything that the padded shortcuts tie is ignored, or the result does not run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch_pruning as tp
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "cifar10"))
import model as cifar

IMPORTANCE = {
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "group_norm": lambda: tp.importance.GroupMagnitudeImportance(p=2, normalizer="gaussian"),
    "taylor": tp.importance.GroupTaylorImportance,
    "bn_scale": tp.importance.BNScaleImportance,
    "fpgm": tp.importance.FPGMImportance,
    "lamp": tp.importance.LAMPImportance,
}


def main() -> None:
    """Prunes and writes the weights."""
    weights, samples, criterion, ratio, out = sys.argv[1:]
    torch.set_num_threads(1)
    net = cifar.resnet20()
    net.load_state_dict(load_file(weights))
    net.eval()
    tied = [net.conv1, net.linear, *(b.conv2 for b in net.modules() if isinstance(b, cifar.BasicBlock))]
    pruner = tp.pruner.MetaPruner(
        net, torch.zeros(1, 3, 32, 32), importance=IMPORTANCE[criterion](), pruning_ratio=float(ratio),
        ignored_layers=tied, global_pruning=False,
    )  # fmt: skip
    data = load_file(samples)
    if criterion == "taylor":
        for x, y in zip(data["x"].split(64), data["y"].split(64), strict=True):
            torch.nn.functional.cross_entropy(net(x), y).backward()
    pruner.step()
    net(torch.zeros(1, 3, 32, 32))
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, out)


if __name__ == "__main__":
    main()
