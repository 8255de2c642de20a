"""What the conversion to 16 bits writes is built by a real TensorRT-RTX: float16, bfloat16, and float16 with Q/DQ."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from calibration.half import HalfSettings, convert_half
from calibration.qdq import quantize_model
from targets.ondevice_pack import FILE_NAME, pack
from targets.scheme import scheme

_TESTS = Path(__file__).resolve().parents[1]
_RTX = Path(os.environ.get("EDGEPRESS_TEST_DEVICES") or _TESTS.parent / ".devices") / "rtx"
pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(
        not (_RTX / "tensorrt_rtx").is_dir(), reason="no tensorrt-rtx: run tests/devices/setup.sh with network access"
    ),
]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load(_TESTS / "unit" / "calibration" / "qdq_zoo.py")


def _build(folder: Path, shapes: dict[str, Any], precision: str) -> tuple[int, dict[str, Any]]:
    (folder / FILE_NAME).write_bytes(pack())
    plan = {
        "schema": 1,
        "model": "model.onnx",
        "precision": precision,
        "compute_capabilities": ["SM86"],
        "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "shapes": {name: {key: [*shape] for key in ("min", "opt", "max")} for name, shape in shapes.items()},
    }
    (folder / "build.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, str(folder / FILE_NAME), "build", str(folder), "--nonce", "n1"],
        env={**os.environ, "PYTHONPATH": str(_RTX)},
        capture_output=True,
        check=False,
        timeout=300,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("net", ["residual", "depthwise", "concat", "transformer", "recommender"])
def test_every_converted_file_builds(net: str, kind: str, tmp_path: Path) -> None:
    """Parser and compiler take nets of every kind; with Q/DQ, scales, biases and operators agree in their type."""
    model, feed = zoo.ZOO[net]()
    source = tmp_path / "float.onnx"
    source.write_bytes(onnx.version_converter.convert_version(model, 20).SerializeToString())
    if kind == "int8":
        quantize_model(source, zoo.table_of(source, feed), scheme("trt"), "minmax", tmp_path / "int8.onnx")
        source = tmp_path / "int8.onnx"
    settings = HalfSettings(dtype="bfloat16" if kind == "bfloat16" else "float16")
    convert_half(source, tmp_path / "model.onnx", settings, samples=[feed])
    free = {value.name for value in model.graph.input if value.type.tensor_type.shape.dim[0].dim_param}
    shapes = {name: array.shape for name, array in feed.items() if name in free}
    code, answer = _build(tmp_path, shapes, "int8" if kind == "int8" else "fp16")
    assert code == 0, answer
