"""The zoo: every architecture with the inputs it takes. Needs nothing but torch, so that other tools can run it too."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

Inputs = Callable[[int], dict[str, Tensor]]


def _load(name: str) -> ModuleType:
    """A file beside this one, by path: the zoo is no package, and tools without this project read it too."""
    spec = importlib.util.spec_from_file_location(f"pruning_zoo_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


convolutional, attention, sequential = _load("convolutional"), _load("attention"), _load("sequential")


def numbers(**shapes: tuple[int, ...]) -> Inputs:
    """Normal numbers, one input a shape (without the batch)."""
    return lambda batch: {name: torch.randn(batch, *shape) for name, shape in shapes.items()}


def ids(limit: int, *shape: int) -> Inputs:
    """Numbers of rows of an embedding."""
    return lambda batch: {"tokens": torch.randint(0, limit, (batch, *shape))}


def _bert(batch: int) -> dict[str, Tensor]:
    return {
        "tokens": torch.randint(0, 30, (batch, 7)),
        "segments": torch.randint(0, 2, (batch, 7)),
        "mask": (torch.arange(7) < torch.randint(3, 8, (batch, 1))).long(),
    }


def _towers(batch: int) -> dict[str, Tensor]:
    return {
        "user": torch.randint(0, 20, (batch,)),
        "features": torch.randn(batch, 3),
        "item": torch.randint(0, 30, (batch,)),
        "genre": torch.randint(0, 6, (batch,)),
    }


def _interactions(batch: int) -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 10, (batch, 3)), "dense": torch.randn(batch, 4)}


IMAGE = numbers(x=(3, 16, 16))
STEPS = numbers(x=(5, 6))

ZOO: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    **{
        name: (getattr(convolutional, name), IMAGE)
        for name in (
            "Vgg", "PaddedResNet", "ResNet", "ResNeXt", "DenseNet", "ShuffleNet", "ShuffleNetV2", "MobileNetV2",
            "MobileNetV3", "EfficientNet", "Inception", "UNet",
            "FpnDetector", "ConvNeXt", "GroupNormNet", "DeepLab", "SuperResolution",
        )
    },
    "Generator": (convolutional.Generator, numbers(z=(6,))),
    "Video": (convolutional.Video, numbers(x=(3, 4, 8, 8))),
    "Vit": (attention.Vit, IMAGE),
    "Bert": (attention.Bert, _bert),
    "TorchEncoder": (attention.TorchEncoder, STEPS),
    "EncoderDecoder": (attention.EncoderDecoder, numbers(source=(7, 6), target=(5, 4))),
    "CrossAttention": (attention.CrossAttention, STEPS),
    "GroupedQueryLm": (attention.GroupedQueryLm, ids(20, 6)),
    "Mixer": (attention.Mixer, IMAGE),
    "EinsumAttention": (attention.EinsumAttention, STEPS),
    "Window": (attention.Window, IMAGE),
    "GruTagger": (sequential.GruTagger, ids(30, 6)),
    "LstmTagger": (sequential.LstmTagger, ids(30, 6)),
    "ProjectedLstm": (sequential.ProjectedLstm, STEPS),
    "RnnClassifier": (sequential.RnnClassifier, STEPS),
    "Speech": (sequential.Speech, numbers(x=(8, 20))),
    "TemporalConv": (sequential.TemporalConv, numbers(x=(8, 12))),
    "TwoTower": (sequential.TwoTower, _towers),
    "Interactions": (sequential.Interactions, _interactions),
    "TiedLm": (sequential.TiedLm, ids(20, 6)),
    "Autoencoder": (sequential.Autoencoder, numbers(x=(10,))),
    "ManyInputs": (sequential.ManyInputs, numbers(image=(3, 8, 8), words=(5, 4), numbers=(3,))),
    "Operators": (sequential.Operators, numbers(x=(6,))),
}  # fmt: skip


def build(name: str, *, seed: int = 0) -> nn.Module:
    """An architecture in evaluation mode, with norms that do something."""
    torch.manual_seed(seed)
    model = ZOO[name][0]()
    for module in model.modules():
        for key in ("weight", "bias"):
            parameter = getattr(module, key, None)
            if isinstance(parameter, nn.Parameter) and "Norm" in type(module).__name__:
                nn.init.normal_(parameter, 1.0 if key == "weight" else 0.0, 0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0.0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def inputs(name: str, batch: int, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A batch for an architecture; numbers of ``dtype``."""
    torch.manual_seed(seed)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in ZOO[name][1](batch).items()}
