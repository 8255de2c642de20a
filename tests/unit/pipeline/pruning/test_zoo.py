"""The promise on the zoo: every architecture is really pruned, and the small net computes what the masked one does."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, fx

from pipeline.exporting import export_onnx
from pipeline.graph import flat_outputs, set_training, trace
from pipeline.pruning import Decisions, PruningGraph, apply_decisions, find_groups, mask_decisions

if TYPE_CHECKING:
    from pipeline.pruning.decisions import Statistics


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pruning_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


zoo = _load(Path(__file__).with_name("zoo") / "architectures.py")

GROUPS = {
    "Vgg": "features.0.0 12, features.1.0 16, features.3.0 16, classifier.0 24",
    "PaddedResNet": (
        "stem.0 8, blocks.0.conv1.0 8, blocks.1.conv1.0 16, blocks.1.conv2.0 8, blocks.2.conv1.0 24, blocks.2.conv2.0 8"
    ),
    "ResNet": (
        "stem.0 8, blocks.0.a.0 8, blocks.0.b.0 8, blocks.0.c.0 16, blocks.1.a.0 8, blocks.1.b.0 8, "
        "blocks.2.a.0 16, blocks.2.b.0 16, blocks.2.c.0 24"
    ),
    "ResNeXt": (
        "stem.0 8, blocks.0.a.0 2, blocks.0.b.0 2, blocks.0.c.0 16, blocks.1.a.0 2, blocks.1.b.0 2, "
        "blocks.2.a.0 4, blocks.2.b.0 4, blocks.2.c.0 24"
    ),
    "DenseNet": "stem 8, convs.0 6, convs.1 6, convs.2 6, transition.2 12",
    "ShuffleNet": "stem.0 4, units.1.a.0 6",
    "ShuffleNetV2": (
        "stem.0 8, units.0.branch.0.0 8, units.1.branch.0.0 8, units.2.branch.0.0 8, last.0 20, stem.0#2 4"
    ),
    "MobileNetV2": "stem.0 8, blocks.0.up.0 24, blocks.1.up.0 24, blocks.1.down.0 12, blocks.2.up.0 24, last.0 20",
    "MobileNetV3": (
        "stem.0 8, blocks.0.up.0 16, blocks.0.squeeze.fc1 8, blocks.1.up.0 24, blocks.1.squeeze.fc1 8, "
        "blocks.1.down.0 12, head.0 20"
    ),
    "EfficientNet": (
        "stem.0 8, blocks.0.up.0 24, blocks.0.squeeze.fc1 4, blocks.1.up.0 32, blocks.1.squeeze.fc1 4, "
        "blocks.1.down.0 24"
    ),
    "Inception": (
        "stem.0 8, mixed.0.one.0 8, mixed.0.three.0.0 8, mixed.0.three.1.0 8, mixed.0.five.0.0 6, "
        "mixed.0.five.1.0 6, mixed.0.pool.0 6, mixed.1.one.0 8, mixed.1.three.0.0 8, mixed.1.three.1.0 8, "
        "mixed.1.five.0.0 6, mixed.1.five.1.0 6, mixed.1.pool.0 6"
    ),
    "UNet": "a.0 6, b.0 8, c.0 12, up 8, d.0 8, e.0 6",
    "FpnDetector": "c3.0 8, c4.0 12, c5.0 16, lateral.0 12, smooth.0 12, tower.0.0 12, tower.1.0 12",
    "ConvNeXt": "blocks.0.up 32, blocks.1.up 32",
    "GroupNormNet": "a 4, b 12, c 12",
    "DeepLab": "stem.0 12, branches.0 8, branches.1 8, branches.2 8, pooled 8, project.0 12",
    "SuperResolution": "head 12, body.0.0 16, body.1.0 16, up 6",
    "Generator": "fc 16, up1 6, up2 4",
    "Video": "space 8, time 12, last 12",
    "Vit": (
        "blocks.0.mlp.fc1 24, blocks.1.mlp.fc1 24, blocks.0.attn.qkv 4 head, blocks.0.attn.qkv#2 4 head_dim, "
        "blocks.1.attn.qkv 4 head, blocks.1.attn.qkv#2 4 head_dim"
    ),
    "Bert": (
        "layers.0.mlp.fc1 32, layers.1.mlp.fc1 32, pooler 12, layers.0.query 4 head, layers.0.query#2 4 "
        "head_dim, layers.0.value 4 head_dim, layers.1.query 4 head, layers.1.query#2 4 head_dim, "
        "layers.1.value 4 head_dim"
    ),
    "TorchEncoder": (
        "first.linear1 24, last.linear1 24, first.self_attn 4 head, first.self_attn#2 4 head_dim, "
        "last.self_attn 2 head, last.self_attn#2 8 head_dim"
    ),
    "EncoderDecoder": (
        "transformer.encoder.layers.0.linear1 24, transformer.decoder.layers.0.linear1 24, "
        "transformer.encoder.layers.0.self_attn 4 head, transformer.encoder.layers.0.self_attn#2 4 head_dim, "
        "transformer.decoder.layers.0.self_attn 4 head, transformer.decoder.layers.0.self_attn#2 4 head_dim, "
        "transformer.decoder.layers.0.multihead_attn 4 head, transformer.decoder.layers.0.multihead_attn#2 4 "
        "head_dim"
    ),
    "CrossAttention": "embed 12, attend.out_proj 16, mlp.fc1 20, mlp.fc2 16, attend 4 head_dim, attend#2 4 head_dim",
    "GroupedQueryLm": (
        "layers.0.gate 24, layers.1.gate 24, layers.0.q 2 head, layers.0.q#2 4 head_dim, layers.0.v 8 "
        "head_dim, layers.1.q 2 head, layers.1.v 8 head_dim"
    ),
    "Mixer": "blocks.0.tokens.fc1 12, blocks.0.channels.fc1 24, blocks.1.tokens.fc1 12, blocks.1.channels.fc1 24",
    "EinsumAttention": "o 12, q 3 head, q#2 4 head_dim, v 4 head_dim",
    "Window": "attn 3 head, mlp.fc1 20, mlp.fc2 12, attn#2 4 head_dim",
    "GruTagger": "embed 12, gru 10 hidden",
    "LstmTagger": "embed 12, encoder 10 hidden, hidden 12",
    "ProjectedLstm": "inputs 8, lstm 6 hidden",
    "RnnClassifier": "rnn 10 hidden, gru 8 hidden",
    "Speech": "stem 12, pointwise 12, gated 10",
    "TemporalConv": "blocks.0.conv 12, blocks.2.conv 10",
    "TwoTower": "user 8, item 8, genre 4, user_tower.0 16, user_tower.2 12, item_tower.0 16",
    "Interactions": "fields.0 8, deep.0 16, deep.2 6",
    "TiedLm": "gru 16 hidden, proj 12",
    "Autoencoder": "weight 16",
    "ManyInputs": "image 10, words 8 hidden, numbers 10, joint 16",
    "Operators": "a 12, c 8, d 8",
}
"""Every group, with its size and, but for channels, its kind."""

LEFT_OUT = {
    "ConvNeXt": "stem 8, blocks.0.up 32, blocks.1.up 32",
    "GroupNormNet": "b 12, c 12, a 4, a#2 4",
    "Vit": (
        "patch 16, blocks.0.mlp.fc1 24, blocks.1.mlp.fc1 24, blocks.0.attn.qkv 4 head, blocks.0.attn.qkv#2 4 "
        "head_dim, blocks.1.attn.qkv 4 head, blocks.1.attn.qkv#2 4 head_dim"
    ),
    "Bert": (
        "words 16, layers.0.mlp.fc1 32, layers.1.mlp.fc1 32, pooler 12, layers.0.query 4 head, "
        "layers.0.query#2 4 head_dim, layers.0.value 4 head_dim, layers.1.query 4 head, layers.1.query#2 4 "
        "head_dim, layers.1.value 4 head_dim"
    ),
    "TorchEncoder": (
        "embed 16, first.linear1 24, last.linear1 24, first.self_attn 4 head, first.self_attn#2 4 head_dim, "
        "last.self_attn 2 head, last.self_attn#2 8 head_dim"
    ),
    "EncoderDecoder": (
        "source 16, transformer.encoder.layers.0.linear1 24, transformer.decoder.layers.0.linear1 24, "
        "transformer.encoder.layers.0.self_attn 4 head, transformer.encoder.layers.0.self_attn#2 4 head_dim, "
        "transformer.decoder.layers.0.self_attn 4 head, transformer.decoder.layers.0.self_attn#2 4 head_dim, "
        "transformer.decoder.layers.0.multihead_attn 4 head, transformer.decoder.layers.0.multihead_attn#2 4 "
        "head_dim"
    ),
    "CrossAttention": (
        "embed 12, attend.out_proj 16, mlp.fc1 20, mlp.fc2 16, attend 4 head, attend#2 4 head_dim, attend#3 4 head_dim"
    ),
    "GroupedQueryLm": (
        "layers.0.o 16, layers.0.gate 24, layers.1.gate 24, layers.0.q 2 head, layers.0.q#2 4 head_dim, "
        "layers.0.v 8 head_dim, layers.1.q 2 head, layers.1.v 8 head_dim"
    ),
    "Mixer": (
        "patch 16, blocks.0.tokens.fc1 12, blocks.0.channels.fc1 24, blocks.1.tokens.fc1 12, blocks.1.channels.fc1 24"
    ),
    "Window": "attn 3 head, patch 12, mlp.fc1 20, mlp.fc2 12, attn#2 4 head_dim",
}
"""The same where it differs when statistics leave removed units out."""


@functools.cache
def traced(name: str) -> fx.GraphModule:
    """In double precision; nobody may change it."""
    return trace(zoo.build(name).double(), zoo.inputs(name, 2, dtype=torch.float64))


def remove(graph: PruningGraph, share: float, seed: int) -> Decisions:
    """A random part of each group's units, at least one kept; ``share`` 1 keeps exactly one."""
    rng = np.random.default_rng(seed)
    return graph.decide(
        {g.name: rng.permutation(g.size)[: min(g.size - 1, max(1, round(share * g.size)))] for g in graph}
    )


def listed(graph: PruningGraph) -> list[str]:
    return sorted(f"{g.name} {g.size}{'' if g.kind == 'channel' else f' {g.kind}'}" for g in graph)


def check_outputs(small: fx.GraphModule, masked: fx.GraphModule, name: str, batches: tuple[int, ...]) -> None:
    for batch in batches:
        x = list(zoo.inputs(name, batch, seed=batch, dtype=torch.float64).values())
        for found, wanted in zip(flat_outputs(small(*x)), flat_outputs(masked(*x)), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def loss(gm: fx.GraphModule, x: list[Tensor]) -> Tensor:
    terms = [
        (torch.sin(out) * torch.arange(1, out.numel() + 1).reshape(out.shape)).sum() for out in flat_outputs(gm(*x))
    ]
    return torch.stack(terms).sum()


def check_gradients(small: fx.GraphModule, masked: fx.GraphModule, decisions: Decisions, name: str) -> None:
    """The gradient of every kept element is the same in both."""
    x = list(zoo.inputs(name, 3, seed=5, dtype=torch.float64).values())
    for gm in (small, masked):
        gm.zero_grad()
        loss(gm, x).backward()
    dense = dict(masked.named_parameters(remove_duplicate=False))
    for key, parameter in small.named_parameters(remove_duplicate=False):
        wanted = dense[key].grad
        assert (wanted is None) == (parameter.grad is None), key
        if wanted is None or parameter.grad is None:
            continue
        owner = next((k for k in decisions.parameters if dense.get(k) is dense[key]), key)  # ties are named once
        for axis, kept in decisions.parameters.get(owner, {}).items():
            wanted = wanted.index_select(axis, torch.tensor(kept.kept))
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-7, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


def check(name: str, share: float, statistics: Statistics, batches: tuple[int, ...]) -> None:
    gm = traced(name)
    graph = find_groups(gm, statistics=statistics)
    decisions = remove(graph, share, seed=round(10 * share))
    small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in gm.parameters())
    check_outputs(small, masked, name, batches)
    check_gradients(small, masked, decisions, name)


def test_the_zoo_is_complete() -> None:
    """Promise: no architecture is without a list of what has to be prunable in it."""
    assert set(GROUPS) == set(zoo.ZOO)
    assert set(LEFT_OUT) < set(GROUPS)


@pytest.mark.parametrize("name", GROUPS)
def test_every_architecture_keeps_the_promise(name: str) -> None:
    """Promise: these groups exist; small and masked dense agree, forward at any batch size and backward."""
    before = {key: value.clone() for key, value in traced(name).state_dict().items()}
    assert listed(find_groups(traced(name))) == sorted(GROUPS[name].split(", "))
    check(name, 0.5, "whole", (1, 3))
    assert all(torch.equal(before[key], value) for key, value in traced(name).state_dict().items())


@pytest.mark.parametrize("name", LEFT_OUT)
def test_statistics_leave_removed_units_out(name: str) -> None:
    """Promise: asked for it, dimensions under a statistic are pruned too, and equal the net that leaves them out."""
    graph = find_groups(traced(name), statistics="leave_out")
    assert listed(graph) == sorted(LEFT_OUT[name].split(", "))
    held = {f.operator for f in graph.frozen}
    assert not held & {"layer_norm", "rms_norm", "softmax", "mean"}
    check(name, 0.5, "leave_out", (1, 3))


@pytest.mark.long
@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("name", GROUPS)
def test_the_promise_at_every_share(name: str, share: float) -> None:
    """Promise: little or almost everything may go, with statistics whole or left out."""
    check(name, share, "whole", (1, 2, 5))
    check(name, share, "leave_out", (1, 2, 5))


def test_batch_statistics_agree_too() -> None:
    """Promise: in training mode, where batch norm uses the batch's own statistics, both compute and update the same."""
    gm = traced("PaddedResNet")
    decisions = remove(find_groups(gm), 0.5, seed=3)
    small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
    set_training(small, training=True)
    set_training(masked, training=True)
    check_outputs(small, masked, "PaddedResNet", (4,))
    kept = list(decisions.parameters["stem.1.running_mean"][0].kept)
    torch.testing.assert_close(
        small.get_buffer("stem.1.running_mean"), masked.get_buffer("stem.1.running_mean")[kept], rtol=1e-9, atol=1e-9
    )


def check_onnx(name: str, folder: Path) -> None:
    gm = trace(zoo.build(name), zoo.inputs(name, 2))
    decisions = remove(find_groups(gm), 0.5, seed=4)
    small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
    export_onnx(small, zoo.inputs(name, 2), folder, opset=20)
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = zoo.inputs(name, batch, seed=batch)
        feed = {given.name: x[given.name].numpy() for given in session.get_inputs()}
        wanted = flat_outputs(masked(*x.values()))
        for found, reference in zip(session.run(None, feed), wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), reference, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["GroupNormNet", "TorchEncoder", "LstmTagger"])
def test_the_small_net_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    """Promise: exported to ONNX, it computes the same at any batch size: pinned scale, heads, recurrent weights."""
    check_onnx(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(GROUPS) - {"ProjectedLstm"}))  # ONNX's LSTM has no projection
def test_every_small_net_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    """Promise: exported to ONNX, the small net computes the same at any batch size."""
    check_onnx(name, tmp_path)
