"""A tiny engine build and the bundle made from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.bundling.assemble import assemble_bundle

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
SAMPLES = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
FIELDS = {
    "name": "tiny",
    "target": "host",
    "precision": "fp32",
    "versions": {"onnxruntime": "1.0"},
    "accuracy": {"validation": 0.5},
}
Maker = Callable[[Path], Path]


def write_build(folder: Path) -> Path:
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data = model.SerializeToString()
    (folder / "engine.onnx").write_bytes(data)
    options = {
        "providers": ["CPUExecutionProvider"], "threads": 1, "allow_spinning": False, "memory_pattern": True,
        "denormal_as_zero": False, "optimization": "disabled",
    }  # fmt: skip
    spec = {
        "schema": 1, "engine": "onnxruntime", "file": "engine.onnx", "runtime": "onnxruntime",
        "runtime_version": "1.32.0", "precision": "fp32", "options": options,
        "sha256": hashlib.sha256(data).hexdigest(),
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
    }  # fmt: skip
    (folder / "engine.json").write_text(json.dumps(spec))
    (folder / "inspect.json").write_text('{"nodes": {"MatMul": {"fp32": 1}}}')
    return folder


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("build") / "engine")


@pytest.fixture
def make_bundle(build_folder: Path) -> Maker:
    def make(out: Path, outputs: np.ndarray | None = None) -> Path:
        assemble_bundle(
            out,
            build_folder=build_folder,
            golden_inputs={"x": SAMPLES},
            golden_outputs={"y": SAMPLES @ WEIGHT if outputs is None else outputs},
            rtol=1e-4,
            atol={"y": 1e-5},
            manifest_fields=FIELDS,
        )
        return out

    return make


@pytest.fixture
def bundle(make_bundle: Maker, tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def copy_of(bundle: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(bundle, tmp_path / name))
