"""`ondevice.pyz build` with a real TensorRT-RTX, which builds engines without a GPU."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from targets.ondevice_pack import FILE_NAME, pack

_DEVICES = Path(os.environ.get("EDGEPRESS_TEST_DEVICES") or Path(__file__).parents[2] / ".devices")
_RTX = _DEVICES / "rtx"
pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(
        not (_RTX / "tensorrt_rtx").is_dir(), reason="no tensorrt-rtx: run tests/devices/setup.sh with network access"
    ),
]
_MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 3, 8, 8] x) => (float[batch, 4] y) <float[4, 3, 3, 3] w, float[4] b>
{ c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  r = Relu(c)
  p = GlobalAveragePool(r)
  y = Flatten(p) }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(_MODEL)
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(np.zeros(4, np.float32), "b")]
    )
    onnx.save(model, str(tmp_path / "model.onnx"))
    (tmp_path / FILE_NAME).write_bytes(pack())
    _plan(tmp_path)
    return tmp_path


def _plan(folder: Path, **changes: object) -> None:
    plan = {
        "schema": 1, "model": "model.onnx", "precision": "fp32", "compute_capabilities": ["SM86"],
        "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "shapes": {"x": {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [4, 3, 8, 8]}},
    }  # fmt: skip
    (folder / "build.json").write_text(json.dumps({**plan, **changes}))


def _build(folder: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(folder / FILE_NAME), "build", str(folder), "--nonce", "n1"],
        env={**os.environ, "PYTHONPATH": str(_RTX)}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["nonce"] == "n1"
    return done.returncode, document


def test_it_builds_an_engine(folder: Path) -> None:
    """The engine, its hash and its description lie in the folder, and the answer says with what it was built."""
    code, document = _build(folder)
    assert code == 0, document
    result = document["result"]
    spec = json.loads((folder / "engine.json").read_text())
    assert result["sha256"] == spec["sha256"] == hashlib.sha256((folder / "engine.plan").read_bytes()).hexdigest()
    assert result["module"] == spec["runtime"] == "tensorrt_rtx"
    assert spec["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["d0", 3, 8, 8]}]
    assert result["inspection"] is not None or result["inspection_why"]


def test_a_free_size_without_shapes_is_named(folder: Path) -> None:
    """TensorRT needs min, opt and max of a free size; the input is named and nothing is built."""
    _plan(folder, shapes={})
    code, document = _build(folder)
    assert code == 3
    assert "'x'" in document["error"]["what"]
    assert not (folder / "engine.plan").exists()


def test_a_model_that_tensorrt_refuses_is_the_models_fault(folder: Path) -> None:
    """What the vendor's parser says reaches the user, and the build does not go on without the node."""
    model = onnx.load(str(folder / "model.onnx"))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "nobody"
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    onnx.save(model, str(folder / "model.onnx"))
    _plan(folder)
    code, document = _build(folder)
    assert code == 6
    assert "Unheard" in document["error"]["why"]
