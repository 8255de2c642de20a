"""Dialect `trt` against NVIDIA's own parser and compiler: TensorRT-RTX builds without a GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from calibration.qdq import quantize_model
from targets.ondevice_pack import FILE_NAME, pack
from targets.scheme import scheme

_TESTS = Path(__file__).parents[1]
_DEVICES = Path(os.environ.get("EDGEPRESS_TEST_DEVICES") or _TESTS.parent / ".devices")
_RTX = _DEVICES / "rtx"
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
broken = _load(_TESTS / "unit" / "targets" / "engines" / "broken_qdq.py")


def _build(folder: Path, shapes: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Builds folder/model.onnx for an Ampere GPU with the program that runs on devices."""
    (folder / FILE_NAME).write_bytes(pack())
    plan = {
        "schema": 1,
        "model": "model.onnx",
        "precision": "int8",
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


@pytest.mark.parametrize(
    ("net", "opset"),
    [(net, opset) for net in sorted(zoo.ZOO) for opset in (13, 23) if (net, opset) != ("depthwise", 13)],
)
def test_every_emitted_file_builds(net: str, opset: int, tmp_path: Path) -> None:
    """Parser and compiler take the dialect for nets of every kind, in old and new opsets (HardSwish came with 14)."""
    model, feed = zoo.ZOO[net]()
    if opset > 17:
        model = onnx.version_converter.convert_version(model, opset)
    else:
        model.opset_import[0].version = opset  # none of the operators changed in between
    path = tmp_path / "float.onnx"
    path.write_bytes(model.SerializeToString())
    quantize_model(path, zoo.table_of(path, feed), scheme("trt"), "minmax", tmp_path / "model.onnx")
    free = {value.name for value in model.graph.input if value.type.tensor_type.shape.dim[0].dim_param}
    code, answer = _build(tmp_path, {name: array.shape for name, array in feed.items() if name in free})
    assert code == 0, answer
    assert answer["result"]["bytes"] > 10_000


@pytest.mark.parametrize("make", broken.REFUSED_BY_TENSORRT, ids=lambda make: make.__name__)
def test_what_the_linter_refuses_tensorrt_refuses(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """Each rule of the linter is TensorRT's: the graph that breaks it cannot be built."""
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    code, answer = _build(tmp_path, {})
    assert code == 6, answer


def test_the_graph_they_are_made_from_builds(tmp_path: Path) -> None:
    """Only what was broken makes the difference."""
    (tmp_path / "model.onnx").write_bytes(broken.good().SerializeToString())
    code, answer = _build(tmp_path, {})
    assert code == 0, answer
