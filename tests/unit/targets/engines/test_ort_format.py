"""Engines in ONNX Runtime's own format: the same bytes and answers everywhere, and the list of what a build needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from targets import onnxfile
from targets.engines import engine
from targets.engines.base import EngineBuild
from targets.engines.child import infer_in_child
from targets.errors import InputError
from targets.options import OnnxRuntimeOptions
from targets.profile import TargetProfile, load_profile

CPU = "CPUExecutionProvider"
NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[batch, 3, 12, 12] x) => (float[batch, 5] y)
<float[16, 3, 3, 3] a, float[16, 16, 3, 3] d, float[16, 16, 1, 1] e, float[5, 16] w, float[5] b>
{
    h = Conv <pads = [1, 1, 1, 1]> (x, a)
    r = Relu (h)
    s = Conv <pads = [1, 1, 1, 1]> (r, d)
    u = Conv (r, e)
    t = Add (s, u)
    p = GlobalAveragePool (t)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w, b)
}
"""
BUILD = """
import sys
from pathlib import Path
from targets.engines import engine
from targets.profile import TargetProfile
profile = TargetProfile.model_validate_json(sys.argv[1], strict=False)
built = engine("onnxruntime").build(Path(sys.argv[2]), profile, Path(sys.argv[3]), precision="fp32")
print(built.sha256, *sorted(built.files.values()))
"""


def _profile(target: str = "host", **options: object) -> TargetProfile:
    chosen = OnnxRuntimeOptions(name="onnxruntime", format="ort", **options)
    return load_profile(target).model_copy(update={"engine": chosen, "alternatives": ()})


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A net with two branches, whose order and names the runtime would leave to chance."""
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    onnx.save(model, str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


def test_every_process_writes_the_same_bytes(net: Path, tmp_path: Path) -> None:
    """The runtime orders a table of this format by a seed of the process; ours is the same in each."""
    said = set()
    for number in range(3):
        command = [sys.executable, "-c", BUILD, _profile().model_dump_json(), str(net), str(tmp_path / f"e{number}")]
        said.add(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(said) == 1


@pytest.mark.parametrize("target", ["host", "raspberry-pi-5"])
def test_the_device_program_runs_it(net: Path, tmp_path: Path, target: str) -> None:
    """The device program opens the format and answers as the reference does, for every target, without optimising."""
    build = engine("onnxruntime").build(net, _profile(target), tmp_path / "e", precision="fp32")
    assert (build.file, build.options["optimization"]) == ("engine.ort", "disabled")
    samples = np.random.default_rng(1).normal(size=(5, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=samples)
    infer_in_child({
        "engine_folder": str(build.folder), "inputs_npz": str(tmp_path / "in.npz"),
        "out_npz": str(tmp_path / "out.npz"), "batch": 2,
    })  # fmt: skip
    found = np.load(tmp_path / "out.npz")["y"]
    wanted = ReferenceEvaluator(onnx.load(str(net))).run(None, {"x": samples})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_foreign_cpu_gets_no_blocked_layout(net: Path, tmp_path: Path) -> None:
    """The layout in blocks fits one class of CPU; for another the operators stay in the plain layout, yet fused."""
    build = engine("onnxruntime").build(net, _profile("raspberry-pi-5"), tmp_path / "e", precision="fp32")
    operators = (build.folder / "required_operators.config").read_text()
    assert "nchwc" not in operators
    assert "FusedConv" in operators
    assert "ReorderInput" not in engine("onnxruntime").inspect(build).nodes


def test_required_operators_are_listed(net: Path, tmp_path: Path) -> None:
    """Operators and types for a reduced build lie beside the engine, hashed with it, and name no path."""
    build = engine("onnxruntime").build(net, _profile("raspberry-pi-5"), tmp_path / "e", precision="fp32")
    assert set(build.files) == {"required_operators.config", "required_operators_and_types.config"}
    plain = (build.folder / "required_operators.config").read_text()
    typed = (build.folder / "required_operators_and_types.config").read_text()
    assert str(tmp_path) not in plain + typed
    rows = [line.split(";") for line in plain.splitlines() if not line.startswith("#")]
    listed = {name for row in rows for name in row[2].split(",")}
    assert listed == set(engine("onnxruntime").inspect(build).nodes)
    assert all(row[1].isdigit() for row in rows)
    assert EngineBuild.read(build.folder) == build


def test_other_providers_get_a_plain_model_too(net: Path, tmp_path: Path) -> None:
    """For a provider that is not the CPU's, an ONNX file beside the engine computes the same function anywhere."""
    profile = _profile(providers=("NnapiExecutionProvider", CPU))
    build = engine("onnxruntime").build(net, profile, tmp_path / "e", precision="fp32")
    assert build.model == "model.onnx"
    assert "model.onnx" in build.files
    samples = np.random.default_rng(1).normal(size=(2, 3, 12, 12)).astype(np.float32)
    found, wanted = (
        ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": samples})[0]
        for path in (build.folder / build.model, net)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_too_large_for_the_format(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flatbuffer ends at 2 GiB: larger weights are refused before the runtime fails on them."""
    monkeypatch.setattr(onnxfile, "ONE_FILE_BYTES", 1000)
    with pytest.raises(InputError, match="too large for ORT format"):
        engine("onnxruntime").build(net, _profile(), tmp_path / "e", precision="fp32")
