"""Which graphs are optimised to the end offline, and that foreign faults are translated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from targets import machine
from targets.engines.child import build_in_child, infer_in_child
from targets.engines.onnxruntime import is_tuned_here
from targets.errors import InputError
from targets.profile import TargetProfile, load_profile

if TYPE_CHECKING:
    from pathlib import Path

MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
tiny (float[batch, 3] x) => (float[batch, 2] y) <float[3, 2] w = {1, 2, -1, 2, 1e-40, 1}>
{
    y = MatMul(x, w)
}
"""
VNNI, AVX2 = frozenset({"avx2", "fma", "avx512f", "avx512_vnni"}), frozenset({"avx2", "fma"})


def _pretend(monkeypatch: pytest.MonkeyPatch, arch: str, features: frozenset[str]) -> None:
    monkeypatch.setattr(machine, "arch", lambda: arch)
    monkeypatch.setattr(machine, "cpu_features", lambda: features)


@pytest.mark.parametrize(
    ("features", "target", "tuned"),
    [
        (VNNI, "x86-64-vnni", True),
        (VNNI, "x86-64-avx2", False),
        (AVX2, "x86-64-avx2", True),
        (AVX2, "x86-64-vnni", False),
        (AVX2, "raspberry-pi-5", False),
    ],
)
def test_layouts_are_fixed_for_the_same_class_of_cpu_only(
    monkeypatch: pytest.MonkeyPatch, features: frozenset[str], target: str, *, tuned: bool
) -> None:
    """A build host with wider vectors than the target leaves the layout to the target: its blocks would be wrong."""
    _pretend(monkeypatch, "x86_64", features)
    assert is_tuned_here(load_profile(target)) is tuned


def _request(tmp_path: Path, profile: TargetProfile, **changes: object) -> dict[str, object]:
    model = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), str(model))
    return {
        "model": str(model),
        "profile": profile.model_dump(mode="json"),
        "precision": "fp32",
        "out_folder": str(tmp_path / "e"),
        **changes,
    }


def test_child_entry_points_speak_json(tmp_path: Path) -> None:
    """Build and inference take and give plain JSON, and the options of the profile end in engine.json."""
    profile = load_profile("host")
    profile = profile.model_copy(update={"engine": profile.engine.model_copy(update={"allow_spinning": False})})
    answer = json.loads(json.dumps(build_in_child(json.loads(json.dumps(_request(tmp_path, profile))))))
    assert answer["engine"]["options"]["allow_spinning"] is False
    assert answer["engine"]["options"]["threads"] == profile.engine.threads
    assert answer["inspection"]["nodes"] == {"MatMul": 1}
    assert answer["inspection"]["subnormal_weights"] == 1
    data = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=data)
    done = infer_in_child(
        {
            "engine_folder": str(tmp_path / "e"),
            "inputs_npz": str(tmp_path / "in.npz"),
            "out_npz": str(tmp_path / "out.npz"),
            "batch": 3,
        }
    )
    assert done["samples"] == 7
    weights = np.array([[1, 2], [-1, 2], [0, 1]], np.float32)
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], data @ weights, rtol=1e-5, atol=1e-6)


def test_unknown_precision_is_refused(tmp_path: Path) -> None:
    """A precision that does not exist is an input error, not fp32 instead."""
    with pytest.raises(InputError, match="int4"):
        build_in_child(_request(tmp_path, load_profile("host"), precision="int4"))


def test_faults_of_the_runtime_are_translated(tmp_path: Path) -> None:
    """A model that the runtime refuses is an input error that keeps the runtime's words."""
    request = _request(tmp_path, load_profile("host"))
    model = onnx.load(str(request["model"]))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(request["model"]))
    with pytest.raises(InputError, match="NoSuchOperator"):
        build_in_child(request)


def test_a_missing_samples_file_crosses_as_an_input_error(tmp_path: Path) -> None:
    """What the device program's code reports becomes the project's own error."""
    build_in_child(_request(tmp_path, load_profile("host")))
    with pytest.raises(InputError, match=r"nothing\.npz"):
        infer_in_child(
            {"engine_folder": str(tmp_path / "e"), "inputs_npz": "nothing.npz", "out_npz": "o.npz", "batch": 1}
        )
