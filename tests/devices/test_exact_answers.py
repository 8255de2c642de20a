"""Answers for targets whose sums are exact, from a CPU without VNNI: those of a CPU with VNNI, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.dynamic import quantize_dynamic_model
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from targets.engines import engine
from targets.profile import TargetProfile, load_profile
from targets.scheme import scheme

pytestmark = pytest.mark.devices

SAMPLES = 40
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from pipeline.data import Split
from pipeline.stages.answers import answered_by, answers
from targets import machine
from targets.profile import TargetProfile
hidden = {"avx512_vnni", "avx_vnni"}  # the kernel's file still names what the mask hides from the runtime
found = machine.cpu_features() - hidden
machine.cpu_features = lambda: found
profile = TargetProfile.model_validate_json(Path(sys.argv[2]).read_text(), strict=False)
folder, split = Path(sys.argv[1]), Split(inputs={"x": np.load(sys.argv[3])}, labels=None)
assert answered_by(folder, profile).startswith("exact int8 sums"), answered_by(folder, profile)
np.save(sys.argv[4], answers(folder, split, profile, Path(sys.argv[4]).parent, batch_size=16)["y"])
"""


def board(form: str) -> TargetProfile:
    """An Arm board that takes engines in that format."""
    profile = load_profile("raspberry-pi-5")
    chosen = profile.engine.model_copy(update={"format": form})
    return profile.model_copy(update={"engine": chosen, "alternatives": ()})


def without_vnni(emulated: ModuleType, folder: Path, profile: TargetProfile, x: np.ndarray, out: Path) -> np.ndarray:
    """The answers that the project gives for an engine, in a process that the mask takes VNNI from."""
    (out / "profile.json").write_text(profile.model_dump_json())
    np.save(out / "x.npy", x)
    mask = emulated.part("mask") / "cpuidmask.so"
    environment = {**os.environ, "LD_PRELOAD": str(mask), "EDGEPRESS_CPU": "avx2", "ORT_DISABLE_TELEMETRY": "1"}
    files = [str(folder), *(str(out / name) for name in ("profile.json", "x.npy", "y.npy"))]
    command = [sys.executable, "-c", PROGRAM, *files]
    subprocess.run(command, env=environment, check=True, cwd=emulated.REPOSITORY)
    return np.load(out / "y.npy")


def check(emulated: ModuleType, folder: Path, profile: TargetProfile, x: np.ndarray, scratch: Path) -> None:
    """Exact answers equal those with VNNI in every bit; the engine itself would be far off there."""
    exact = without_vnni(emulated, folder, profile, x, scratch)
    with_vnni = emulated.infer(emulated.here(), folder, x, scratch)["y"]
    masked = emulated.infer(emulated.without_vnni(), folder, x, scratch)["y"]
    assert emulated.bits_different({"y": exact}, {"y": with_vnni}) == (with_vnni.size, 0)
    assert (masked != with_vnni).any()


@pytest.mark.parametrize("name", ["loud", "residual"])
def test_an_engine_in_ort_format(emulated: ModuleType, tmp_path: Path, name: str) -> None:
    """Convolutions, channels last, a shortcut, pools: from the file's own integer operators."""
    emulated.here()
    rng = np.random.default_rng(5)
    x = rng.uniform(0.9, 1, (SAMPLES, 3, 16, 16)) if name == "loud" else rng.normal(size=(SAMPLES, 3, 16, 16))
    x, path = x.astype(np.float32), tmp_path / "net.onnx"
    model = emulated.loud_net(path) if name == "loud" else emulated.residual_net(path, 5)
    table = collect(model, CalibrationSet({"x": x}, batch_size=16), threads=1)
    quantize_model(model, table, scheme("ort-arm64"), "minmax", tmp_path / "q.onnx")
    profile = board("ort")
    built = engine("onnxruntime").build(tmp_path / "q.onnx", profile, tmp_path / "engine", precision="int8")
    check(emulated, built.folder, profile, x, tmp_path)


@pytest.mark.parametrize("form", ["onnx", "ort"])
def test_an_engine_in_dynamic_int8(emulated: ModuleType, tmp_path: Path, form: str) -> None:
    """Two products in a row, each scaled by what its batch holds."""
    emulated.here()
    rng = np.random.default_rng(0)
    weights = {"w": (48, 64), "v": (64, 33)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "v"], ["y"], "second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 33])],
        [
            numpy_helper.from_array(rng.uniform(-0.02, 0.1, shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    quantize_dynamic_model(model, tmp_path / "d.onnx", min_elements=0)
    profile, x = board(form), rng.uniform(-0.1, 1, (SAMPLES, 48)).astype(np.float32)
    built = engine("onnxruntime").build(tmp_path / "d.onnx", profile, tmp_path / "engine", precision="int8-dynamic")
    check(emulated, built.folder, profile, x, tmp_path)
