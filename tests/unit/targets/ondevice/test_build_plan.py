"""The TensorRT build on the device: what it refuses before and beside the vendor's builder."""

from __future__ import annotations

import hashlib
import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.ondevice import build, build_config, tensorrt_module
from targets.ondevice.failure import BAD_INPUT, DEVICE, REFUSED, Failure

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"model")
    _write(tmp_path)
    return tmp_path


def _write(folder: Path, **changes: object) -> None:
    plan = {
        "schema": 1, "model": "model.onnx", "sha256": hashlib.sha256(b"model").hexdigest(), "precision": "int8",
        "shapes": {},
    }  # fmt: skip
    (folder / "build.json").write_text(json.dumps({**plan, **changes}))


def test_a_valid_plan_is_read_with_its_defaults(folder: Path) -> None:
    """What build.json leaves out has the documented default."""
    plan = build.read_plan(folder)
    assert (plan.precision, plan.optimization_level, plan.workspace_mb, plan.device) == ("int8", 3, 1024, "gpu")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema": 2}, BAD_INPUT),
        ({"precision": "int4"}, BAD_INPUT),
        ({"device": "tpu"}, BAD_INPUT),
        ({"optimization_level": 9}, BAD_INPUT),
        ({"model": "../model.onnx"}, BAD_INPUT),
        ({"model": "other.onnx"}, BAD_INPUT),
        ({"sha256": "0" * 64}, REFUSED),
        ({"optimization_level": "3"}, BAD_INPUT),
        ({"optimization_level": True}, BAD_INPUT),
        ({"workspace_mb": None}, BAD_INPUT),
        ({"workspace_mb": 0}, BAD_INPUT),
        ({"dla_core": 1.0}, BAD_INPUT),
        ({"gpu_fallback": "no"}, BAD_INPUT),
        ({"cuda_graph": 1}, BAD_INPUT),
        ({"compute_capabilities": "SM86"}, BAD_INPUT),
        ({"shapes": {"x": [1, 2]}}, BAD_INPUT),
        ({"shapes": {"x": {"min": [1], "opt": [2]}}}, BAD_INPUT),
        ({"shapes": {"x": {"min": [2], "opt": [1], "max": [4]}}}, BAD_INPUT),
        ({"shapes": {"x": {"min": [1], "opt": [1, 2], "max": [4]}}}, BAD_INPUT),
        ({"shapes": {"x": {"min": ["1"], "opt": [1], "max": [4]}}}, BAD_INPUT),
        ({"inputs": [{"name": "x"}]}, BAD_INPUT),
        ({"compute": {"c": {"operator": "Conv", "precision": "int8", "macs": -1}}}, BAD_INPUT),
        ({"float_type": "float64"}, BAD_INPUT),
        ({"engine": "onnxruntime"}, BAD_INPUT),
        ({"precision": "fp32", "device": "dla"}, BAD_INPUT),
    ],
)
def test_a_plan_that_is_not_right_is_refused(folder: Path, changes: dict[str, Any], code: int) -> None:
    """Nothing is built from a plan or a model that is not what edgepress wrote."""
    _write(folder, **changes)
    with pytest.raises(Failure) as caught:
        build.read_plan(folder)
    assert caught.value.exit_code == code


@given(
    key=st.sampled_from(sorted(build.BuildPlan._fields)),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_a_plan_is_read_or_refused(folder: Path, key: str, value: object) -> None:
    """Any JSON value in any field gives a plan or a failure that names the field: never a traceback."""
    _write(folder, **{key: value})
    try:
        plan = build.read_plan(folder)
    except Failure:
        return
    assert getattr(plan, key) == value


def test_a_linked_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """A link could lead out of the bundle."""
    (folder / "model.onnx").unlink()
    (tmp_path / "elsewhere").write_bytes(b"model")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure) as caught:
        build.read_plan(folder)
    assert caught.value.exit_code == BAD_INPUT


def test_without_tensorrt_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without TensorRT is told which package it lacks."""
    for name in tensorrt_module.MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Failure) as caught:
        build.build_engine(folder)
    assert caught.value.exit_code == DEVICE  # as for numpy and onnxruntime
    assert "python3-libnvinfer" in caught.value.fix


def test_tensorrt_without_a_driver_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT proper crashes without a driver, so it is not touched where none answers."""
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr(tensorrt_module, "driver_answers", lambda: False)
    with pytest.raises(Failure) as caught:
        tensorrt_module.import_vendor()
    assert caught.value.exit_code == DEVICE


def test_a_missing_dla_core_is_an_error_not_the_gpu(folder: Path) -> None:
    """Asked for a DLA that is not there, the build does not quietly take the GPU."""
    _write(folder, device="dla", dla_core=1)

    class Builder:
        num_DLA_cores = 1  # noqa: N815 - TensorRT's name

    with pytest.raises(Failure) as caught:
        build_config.use_dla(None, Builder(), None, build.read_plan(folder))
    assert caught.value.exit_code == DEVICE
