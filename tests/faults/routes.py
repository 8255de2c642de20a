"""Small recipes that together go through every stage there is: what a sweep over stage boundaries runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

STRIPES: Final = Path(__file__).resolve().parents[1] / "e2e" / "stripes"
WIDTH: Final = 8

_OPEN: Final = """
task = "classification"
threads = 1
[model]
factory = "stripes_model.py:stripes_net"
args = { width = 8 }
%s
[data]
factory = "stripes_data.py:stripes"
args = { samples = 96 }
[budget]
accuracy_drop = 1.0
[benchmark]
measure = %s
mode = "quick"
budget_s = 2.0
[quantize]
samples = 32
min_samples = 1
sensitivity = "off"
mixed_precision = "off"
%s
"""

RECIPES: Final = {
    "chain": _OPEN
    % (
        "",
        "false",
        'qat = "on"\nqat_epochs = 1\nalgorithms = []\nmethod = "minmax"',
    )
    + """
[train]
epochs = 2
batch_size = 32
[surgery]
replace = [{ operator = "relu", by = "relu6" }]
[depth]
blocks = 1
samples = 32
[prune]
ratio = 0.5
schedule = "linear"
steps = 2
finetune = { epochs = 1, batch_size = 32 }
[sparsify]
ratio = 0.3
[distill]
epochs = 2
batch_size = 32
[build]
candidates = ["int8"]
""",
    "given": _OPEN % ('weights = "given.safetensors"', "false", 'algorithms = []\nqat = "off"\nmethod = "minmax"')
    + """
[finetune]
epochs = 2
batch_size = 32
[distill]
epochs = 1
batch_size = 32
student = { factory = "stripes_model.py:stripes_net", args = { width = 4 } }
[[distill.teachers]]
name = "dense"
dense = true
[[distill.teachers]]
name = "other"
factory = "stripes_model.py:stripes_net"
args = { width = 8 }
weights = "given.safetensors"
[[distill.teachers]]
name = "file"
onnx = "net.onnx"
[build]
candidates = ["fp32"]
""",
    "latency": _OPEN.replace("width = 8", "width = 64")
    % ("", "true\nlayers = true", 'algorithms = []\nqat = "off"\nmethod = "minmax"')
    + """
[train]
epochs = 1
batch_size = 32
[prune]
latency_ratio = 0.9
latency = { nets = 6, rounds = 1, budget_s = 2.0, precision = "fp32", tolerance = 0.9 }
[build]
candidates = ["fp32"]
""",
    "onnx": """
task = "fidelity"
threads = 1
[model]
onnx = "net.onnx"
[data]
npz = "data.npz"
[budget]
accuracy_drop = 1.0
[benchmark]
measure = false
[build]
candidates = ["fp32", "int8", "int8-dynamic"]
[quantize]
formats = ["int8-dynamic"]
algorithms = []
method = "minmax"
sensitivity = "off"
mixed_precision = "off"
qat = "off"
""",
    "search": _OPEN % ("", "false", 'algorithms = []\nqat = "off"\nmethod = "minmax"')
    + """
[train]
epochs = 1
batch_size = 32
[prune]
ratio = 0.5
[distill]
epochs = 1
batch_size = 32
[build]
candidates = ["fp32"]
[search]
trials = 2
sampler = "grid"
objectives = ["size", "accuracy"]
[search.space]
prune.ratio = [0.3, 0.6]
[search.screening]
benchmark = { measure = false }
""",
}


def make_project(route: str, folder: Path) -> Path:
    """The project of a route, with its model, its data and its weights."""
    shutil.copytree(STRIPES, folder)
    dice = np.random.default_rng(1)
    (folder / "recipe.toml").write_text(RECIPES[route], encoding="utf-8")
    save_file(_weights(dice), folder / "given.safetensors")
    onnx.save(_net(dice), folder / "net.onnx")
    np.savez(folder / "data.npz", image=dice.standard_normal((150, 1, 8, 8), dtype=np.float32))
    return folder


def _weights(dice: np.random.Generator) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {
        "head.weight": dice.standard_normal((3, WIDTH), dtype=np.float32),
        "head.bias": np.zeros(3, np.float32),
    }
    for conv, norm, inputs in (("stem", "bn", 1), ("conv1", "bn1", WIDTH), ("conv2", "bn2", WIDTH)):
        found[f"{conv}.weight"] = dice.normal(0, 0.2, (WIDTH, inputs, 3, 3)).astype(np.float32)
        found |= {f"{norm}.{name}": np.ones(WIDTH, np.float32) for name in ("weight", "running_var")}
        found |= {f"{norm}.{name}": np.zeros(WIDTH, np.float32) for name in ("bias", "running_mean")}
        found[f"{norm}.num_batches_tracked"] = np.array(0, np.int64)
    return found


def _net(dice: np.random.Generator) -> onnx.ModelProto:
    tensors = [
        numpy_helper.from_array(dice.normal(0, 0.4, shape).astype(np.float32), name)
        for name, shape in (("w", (4, 1, 3, 3)), ("wide", (4, 128)), ("square", (128, 128)), ("head", (128, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "wide"], ["first"]),
        helper.make_node("MatMul", ["first", "square"], ["second"]),
        helper.make_node("MatMul", ["second", "head"], ["logits"]),
    ]
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
