"""The ONNX file computes what torch computes, at any batch size, and tells nothing of the machine that wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.exporting import export_onnx
from pipeline.exporting.export import strip_build_traces
from pipeline.graph import trace
from targets.errors import InputError

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.body(x))
        return self.fc(x.mean((2, 3)))

def build():
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        model.bn.running_mean.uniform_(-1, 1)
        model.bn.running_var.uniform_(0.5, 2)
    return model
"""
SCRIPT = """
import sys, pathlib, torch
sys.path.insert(0, sys.argv[1])
from net import build
from pipeline.exporting import export_onnx
from pipeline.graph import trace
x = {"x": torch.zeros(2, 3, 8, 8)}
export_onnx(trace(build(), x), x, pathlib.Path(sys.argv[1]), opset=20)
"""


def _residual() -> nn.Module:
    scope: dict[str, Any] = {}
    exec(SOURCE, scope)
    model: nn.Module = scope["build"]()
    return model


def _example(*shape: int, name: str = "x") -> dict[str, Tensor]:
    return {name: torch.zeros(2, *shape)}


def _run(path: Path, **feed: np.ndarray) -> list[Any]:
    return list(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Any]:
    folder = tmp_path_factory.mktemp("export")
    graph = trace(_residual(), _example(3, 8, 8))
    return graph, folder, export_onnx(graph, _example(3, 8, 8), folder, opset=20)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_outputs_equal_those_of_torch(batch: int, exported: tuple[Any, Path, Any]) -> None:
    """Random samples give torch's outputs within float32 rounding, at every batch size."""
    graph, folder, _ = exported
    x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8), dtype=np.float32)
    with torch.no_grad():
        expected = graph(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(_run(folder / "model.onnx", x=x)[0], expected, rtol=1e-4, atol=1e-5)


def test_batch_axis_is_free_and_named(exported: tuple[Any, Path, Any]) -> None:
    """Inputs and outputs say ``batch`` where any number goes, in the file and in io.json."""
    _, folder, description = exported
    assert description == {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 5]}],
    }
    assert json.loads((folder / "io.json").read_text()) == description


def test_initializers_carry_the_users_names(exported: tuple[Any, Path, Any]) -> None:
    """Weights are called after the user's modules, so that every later stage can name a layer."""
    names = {tensor.name for tensor in onnx.load(exported[1] / "model.onnx").graph.initializer}
    assert {"stem.weight", "body.weight", "body.bias", "fc.weight", "fc.bias"} <= names


def test_opset_is_the_one_asked_for(exported: tuple[Any, Path, Any], tmp_path: Path) -> None:
    """Ask for an operator set, get it, or an error that names the one to ask for."""
    export_onnx(exported[0], _example(3, 8, 8), tmp_path, opset=18)
    for folder, opset in ((tmp_path, 18), (exported[1], 20)):
        (found,) = [item.version for item in onnx.load(folder / "model.onnx").opset_import if not item.domain]
        assert found == opset


def test_no_trace_of_the_machine(exported: tuple[Any, Path, Any]) -> None:
    """Neither paths of this machine nor stack traces are in the bytes."""
    content = (exported[1] / "model.onnx").read_bytes()
    private = [
        str(Path.cwd()),
        str(Path.home()),
        str(Path(__file__).parent),
        sysconfig.get_path("purelib"),
        "site-packages",
    ]
    for text in (*private, 'File "', "stack_trace", "fx_node", ".py"):
        assert text.encode() not in content, text


def test_two_folders_and_processes_give_the_same_bytes(exported: tuple[Any, Path, Any], tmp_path: Path) -> None:
    """The same model exported elsewhere, by another process, is the same file."""
    (tmp_path / "net.py").write_text(SOURCE, encoding="utf-8")
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=tmp_path, env=environment, check=True, timeout=240
    )
    assert (tmp_path / "model.onnx").read_bytes() == (exported[1] / "model.onnx").read_bytes()


class _Named(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"total": left + right, "product": left * right}


def test_several_inputs_and_outputs_keep_names_and_order(tmp_path: Path) -> None:
    """Keys of a returned dict name the outputs; inputs keep theirs."""
    example = {"left": torch.zeros(2, 4), "right": torch.zeros(2, 4)}
    description = export_onnx(trace(_Named(), example), example, tmp_path, opset=20)
    assert [item["name"] for item in description["inputs"]] == ["left", "right"]
    assert [item["name"] for item in description["outputs"]] == ["total", "product"]
    left, right = np.random.default_rng(0).standard_normal((2, 3, 4), dtype=np.float32)
    total, product = _run(tmp_path / "model.onnx", left=left, right=right)
    np.testing.assert_allclose(total, left + right, rtol=1e-6)
    np.testing.assert_allclose(product, left * right, rtol=1e-6)


def test_outputs_of_a_tuple_are_numbered(tmp_path: Path) -> None:
    """A tuple gives ``output_0``, ``output_1``, ..."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, x * 2

    description = export_onnx(trace(Pair(), _example(4)), _example(4), tmp_path, opset=20)
    assert [item["name"] for item in description["outputs"]] == ["output_0", "output_1"]


def test_output_called_like_an_input_is_refused(tmp_path: Path) -> None:
    """Names are unique in a file; the key to rename is told."""

    class Clash(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x + 1}

    with pytest.raises(InputError, match="called 'x'"):
        export_onnx(trace(Clash(), _example(4)), _example(4), tmp_path, opset=20)


def test_nested_outputs_are_refused(tmp_path: Path) -> None:
    """What ONNX cannot say is an input error that tells what to return."""

    class Nested(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            return x, (x + 1, x * 2)

    with pytest.raises(InputError, match="let forward"):
        export_onnx(trace(Nested(), _example(4)), _example(4), tmp_path, opset=20)


def test_operator_without_onnx_form_is_named(tmp_path: Path) -> None:
    """A model that torch traces and ONNX cannot express is an input error, nothing is written."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = torch.special.bessel_j0(functional.relu(x))
            return answer

    with pytest.raises(InputError, match=r"(?s)cannot be exported.*bessel"):
        export_onnx(trace(Odd(), _example(4)), _example(4), tmp_path, opset=20)
    assert not list(tmp_path.iterdir())


def test_stripping_reaches_subgraphs_and_functions() -> None:
    """Doc strings and metadata go wherever ONNX can hold them, and the computation stays."""
    secret = "/home/somebody/net.py"
    helper = onnx.helper

    def node(kind: str, source: str, target: str, **branches: onnx.GraphProto) -> onnx.NodeProto:
        made = helper.make_node(kind, [source], [target], **branches)
        made.doc_string = secret
        made.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
        return made

    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1], doc_string=secret)
    inner = helper.make_graph([node("Neg", "x", "y")], "inner", [], [value], doc_string=secret)
    chosen = node("If", "c", "z", then_branch=inner, else_branch=inner)
    outer = helper.make_graph([chosen], "outer", [], [value], doc_string=secret)
    function = helper.make_function(
        "local", "f", ["x"], ["y"], [node("If", "x", "y", then_branch=inner, else_branch=inner)], []
    )
    function.doc_string = secret
    model = helper.make_model(outer, functions=[function], doc_string=secret)
    model.metadata_props.add(key="path", value=secret)
    strip_build_traces(model)
    content = model.SerializeToString()
    assert secret.encode() not in content
    assert content.count(b"Neg") == 4
