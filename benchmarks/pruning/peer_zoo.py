"""Torch-Pruning on the zoo, in an environment of its own: peer_zoo.py OUT.json. The same nets, half of the channels.

It is used as its documentation says for any model: example inputs, the output layers ignored, magnitude importance, no
code for single models. Its reference is the promise: the large net with zeros wherever a layer reads a removed channel.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path

import torch
import torch_pruning as tp
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "unit" / "pipeline" / "pruning" / "zoo"))
import architectures

OUTPUTS = {
    "Vgg": ["classifier.3"], "FpnDetector": ["classes", "boxes"], "Vit": ["head"], "Bert": ["classifier"],
    "TorchEncoder": ["head"], "EncoderDecoder": ["head"], "CrossAttention": ["head"],
    "GroupedQueryLm": ["head", "embed"],
    "Mixer": ["head"], "EinsumAttention": ["head"], "Window": ["head"], "MobileNetV3": ["head.3"], "UNet": ["out"],
    "DeepLab": ["out"], "SuperResolution": ["tail"], "Generator": ["out"], "GruTagger": ["tag"], "LstmTagger": ["tag"],
    "TwoTower": ["bias"], "Interactions": ["top"], "TiedLm": ["out", "embed"], "ManyInputs": ["label", "value", "map"],
}  # fmt: skip
"""The layers whose outputs are the model's; ``fc`` where nothing else is said."""


TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def flat(answer: object) -> list[Tensor]:
    """The tensors of an answer."""
    if isinstance(answer, Tensor):
        return [answer]
    return list(answer.values()) if isinstance(answer, dict) else list(answer)


class Masked:
    """The large net, which learns group by group what it must no longer read."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.names = copy.deepcopy(model), {id(m): n for n, m in model.named_modules()}
        self._left: dict[tuple[str, bool], list[int]] = {}

    def blind(self, dependency: object, indices: list[int]) -> None:
        """One layer loses channels; where it reads them, the large net's weights become zero."""
        name = self.names.get(id(dependency.target.module))
        if name is None:
            return
        layer = self.model.get_submodule(name)
        handler = dependency.handler.__name__
        reads = "in_channels" in handler
        size = getattr(layer, "in_channels", getattr(layer, "in_features", getattr(layer, "input_size", None)))
        if not reads or size is None:
            return
        left = self._left.setdefault((name, reads), list(range(size)))
        original = [left[index] for index in indices]
        self._left[name, reads] = [index for number, index in enumerate(left) if number not in set(indices)]
        with torch.no_grad():
            if isinstance(layer, TRANSPOSED):
                layer.weight[original] = 0
            elif isinstance(layer, nn.Linear):
                layer.weight[:, original] = 0
            elif isinstance(layer, CONVOLUTIONS):
                self._blind_groups(layer, original)
            elif isinstance(layer, nn.RNNBase):
                for key, weight in layer.named_parameters():
                    if key.startswith("weight_ih_l0"):
                        weight[:, original] = 0

    @staticmethod
    def _blind_groups(layer: nn.Module, channels: list[int]) -> None:
        """A group's filters read its own channels; a depthwise filter is the channel, and reads nothing else."""
        inputs, filters = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        for channel in channels if inputs > 1 else []:
            group, position = divmod(channel, inputs)
            layer.weight[group * filters : (group + 1) * filters, position] = 0


def outcome(name: str) -> dict[str, object]:
    """What became of one architecture."""
    model = architectures.build(name).double()
    before = sum(p.numel() for p in model.parameters())
    masked = Masked(model)
    example = tuple(architectures.inputs(name, 2, dtype=torch.float64).values())
    ignored = [model.get_submodule(path) for path in OUTPUTS.get(name, ["fc"]) if path in dict(model.named_modules())]
    try:
        pruner = tp.pruner.MagnitudePruner(
            model, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=ignored
        )
        for group in pruner.step(interactive=True):
            for dependency, indices in group:
                masked.blind(dependency, list(indices))
            group.prune()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the outcome
        return {"outcome": "raises while pruning", "why": f"{type(error).__name__}: {error}"[:160]}
    after = sum(p.numel() for p in model.parameters())
    if after == before:
        return {"outcome": "prunes nothing", "parameters": 1.0}
    test = list(architectures.inputs(name, 3, seed=3, dtype=torch.float64).values())
    try:
        found = flat(model(*test))
    except Exception as error:  # noqa: BLE001 - whatever it raises is the outcome
        return {
            "outcome": "does not run",
            "parameters": after / before,
            "why": f"{type(error).__name__}: {error}"[:160],
        }
    wanted = flat(masked.model(*test))
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return {"outcome": "outputs of another shape", "parameters": after / before}
    error = max(float((f - w).norm() / w.norm().clamp(min=1e-12)) for f, w in zip(found, wanted, strict=True))
    return {
        "outcome": "right" if error < 1e-6 else "computes something else",
        "parameters": after / before,
        "error": error,
    }


def main() -> None:
    """Prunes all of them and writes what became of each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.enable_grad():
        results = {name: outcome(name) for name in architectures.ZOO}
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
