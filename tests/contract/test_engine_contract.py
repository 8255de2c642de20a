"""The promises every engine keeps; one suite, all engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from targets import engines
from targets.engines.base import Engine, EngineBuild
from targets.errors import InputError, RefusedError
from targets.files import sha256_file
from targets.profile import TargetProfile, load_profile

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("host", "x86-64-avx2", "raspberry-pi-5")
TOTAL = """
<ir_version: 10, opset_import: ["" : 18]>
total (float[batch, 3] x) => (float y) { y = ReduceSum <keepdims=0> (x) }
"""


@pytest.fixture(params=["onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return engines.engine(request.param)


@pytest.fixture
def host() -> TargetProfile:
    return load_profile("host")


def test_available(engine: Engine) -> None:
    """An engine that is installed says so, with its version."""
    answer = engine.available()
    assert answer.ok, answer
    assert any(character.isdigit() for character in answer.why)


def test_unknown_engine_is_named_with_the_nearest() -> None:
    """Asking for an engine that is not there gives an error with the nearest name."""
    with pytest.raises(InputError, match="onnxruntime"):
        engines.engine("onxruntime")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_same_model_same_bytes(
    engine: Engine, models: dict[str, Path], tmp_path: Path, target: str, precision: str
) -> None:
    """Two builds of the same model, from different folders, are equal file by file."""
    other = tmp_path / "another folder" / "model.onnx"
    other.parent.mkdir()
    shutil.copyfile(models[precision], other)
    profile = load_profile(target)
    first = engine.build(models[precision], profile, tmp_path / "a", precision=precision)
    second = engine.build(other, profile, tmp_path / "b", precision=precision)
    names = sorted(path.name for path in first.folder.iterdir())
    assert {"engine.json", "inspect.json", first.file} <= set(names)
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name
    assert first.sha256 == sha256_file(first.folder / first.file)
    assert str(tmp_path).encode() not in (first.folder / first.file).read_bytes()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_computes_what_the_model_computes(
    engine: Engine, models: dict[str, Path], samples: np.ndarray, tmp_path: Path, target: str, precision: str
) -> None:
    """An engine gives what the ONNX reference implementation gives, for any batch size and every target."""
    wanted = ReferenceEvaluator(onnx.load(str(models[precision]))).run(None, {"x": samples})[0]
    build = engine.build(models[precision], load_profile(target), tmp_path / "e", precision=precision)
    with engine.open(build) as runner:
        together = runner.infer({"x": samples})["y"]
        alone = np.concatenate([runner.infer({"x": samples[i : i + 1]})["y"] for i in range(len(samples))])
    # One step of the int8 activation (0.1) averaged over 64 pixels: rounding of ties may differ, never more.
    tolerance = 1e-5 if precision == "fp32" else 0.1
    np.testing.assert_allclose(together, wanted, atol=tolerance * np.abs(wanted).max())
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_the_build_says_what_runs_in_int8(
    engine: Engine, models: dict[str, Path], tmp_path: Path, host: TargetProfile
) -> None:
    """inspect.json counts the int8 nodes and their share of the arithmetic, and names what stayed float."""
    build = engine.build(models["int8"], host, tmp_path / "e", precision="int8")
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert seen["compute"]["int8"] >= 1
    assert seen["compute"]["macs"] == 16 * 3 * 9 * 64 + 4 * 16
    assert seen["compute"]["int8_macs"] == 16 * 3 * 9 * 64
    assert seen["actual_precision"] == "mixed"
    assert len(seen["float_compute"]) == 1
    assert sum(seen["nodes"].values()) == sum(seen["providers"].values())
    assert engine.inspect(build).to_json() == {**seen, "float_compute": tuple(seen["float_compute"])}


def test_int8_that_stays_float_is_an_error(
    engine: Engine, models: dict[str, Path], tmp_path: Path, host: TargetProfile
) -> None:
    """Asked for int8, an engine in which nothing runs in int8 is refused, not delivered."""
    with pytest.raises(InputError, match="int8") as caught:
        engine.build(models["fp32"], host, tmp_path / "e", precision="int8")
    assert "stayed float" in caught.value.why
    assert not (tmp_path / "e" / "engine.json").exists()


def test_fp32_that_is_int8_is_an_error(
    engine: Engine, models: dict[str, Path], tmp_path: Path, host: TargetProfile
) -> None:
    """Asked for fp32, a quantised model is refused."""
    with pytest.raises(InputError, match="fp32"):
        engine.build(models["int8"], host, tmp_path / "e", precision="fp32")


@pytest.mark.parametrize(
    ("feed", "parts"),
    [
        ({"z": np.zeros((1, 3, 8, 8), np.float32)}, ["x", "z"]),
        ({"x": np.zeros((1, 3, 8, 8))}, ["float32", "float64"]),
        ({"x": np.zeros((1, 3, 8, 9), np.float32)}, ["8, 8", "8, 9"]),
        ({"x": np.zeros((3, 8, 8), np.float32)}, ["batch", "[3, 8, 8]"]),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, ["0, 3, 8, 8"]),
    ],
)
def test_wrong_feeds_name_both_sides(
    engine: Engine,
    models: dict[str, Path],
    tmp_path: Path,
    host: TargetProfile,
    feed: dict[str, np.ndarray],
    parts: list[str],
) -> None:
    """A feed of wrong name, dtype, shape or no sample is refused, with what is wanted and what was given."""
    build = engine.build(models["fp32"], host, tmp_path / "e", precision="fp32")
    with engine.open(build) as runner, pytest.raises(InputError) as caught:
        runner.infer(feed)
    for part in parts:
        assert part in caught.value.why


def test_a_changed_engine_is_not_opened(
    engine: Engine, models: dict[str, Path], tmp_path: Path, host: TargetProfile
) -> None:
    """One flipped bit in the engine file and it is refused before the runtime sees it."""
    build = engine.build(models["fp32"], host, tmp_path / "e", precision="fp32")
    path = build.folder / build.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="not the one"), engine.open(build):
        pass


def test_engine_json_round_trip(engine: Engine, models: dict[str, Path], tmp_path: Path, host: TargetProfile) -> None:
    """What is read back from engine.json is what was built; another schema is refused."""
    build = engine.build(models["fp32"], host, tmp_path / "e", precision="fp32")
    assert EngineBuild.read(build.folder) == build
    (build.folder / "engine.json").write_text(json.dumps({**build.to_json(), "schema": 2}))
    with pytest.raises(InputError, match="holds no engine"):
        EngineBuild.read(build.folder)


def test_check_names_every_fault(engine: Engine, wide_free_model: Path, host: TargetProfile) -> None:
    """The linter refuses a free axis other than the batch and foreign operators, all at once."""
    model = onnx.load(str(wide_free_model))
    model.graph.node[1].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, str(wide_free_model))
    faults = engine.check(wide_free_model, host)
    assert {fault.where for fault in faults} == {"input 'x'", "node 'relu'"}


def test_an_output_without_batch_axis_is_refused(engine: Engine, tmp_path: Path, host: TargetProfile) -> None:
    """One number for a whole batch is no output of a sample: refused before anything is built."""
    model = tmp_path / "sum.onnx"
    onnx.save(onnx.parser.parse_model(TOTAL), str(model))
    assert [fault.where for fault in engine.check(model, host)] == ["output 'y'"]


def test_the_linter_accepts_good_models(engine: Engine, models: dict[str, Path], host: TargetProfile) -> None:
    """Nothing is wrong with the models of this suite."""
    assert engine.check(models["fp32"], host) == []
    assert engine.check(models["int8"], host) == []


def test_builds_into_an_empty_folder_only(
    engine: Engine, models: dict[str, Path], tmp_path: Path, host: TargetProfile
) -> None:
    """A folder that holds something is left as it is."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        engine.build(models["fp32"], host, tmp_path / "e", precision="fp32")
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["mine.txt"]


def test_the_host_computes_on_as_before(models: dict[str, Path], tmp_path: Path) -> None:
    """Building, inspecting and running an engine that flushes subnormals does not make this process flush them."""
    code = f"""
import numpy as np
from pathlib import Path
from targets.engines import engine
from targets.profile import load_profile
tiny = np.full(4, 1e-40, np.float32)
profile = load_profile("host")
assert profile.engine.denormal_as_zero
model, out = Path({str(models["fp32"])!r}), Path({str(tmp_path / "e")!r})
build = engine("onnxruntime").build(model, profile, out, precision="fp32")
with engine("onnxruntime").open(build) as runner:
    runner.infer({{"x": np.zeros((1, 3, 8, 8), np.float32)}})
    assert (tiny * np.float32(1) != 0).all()
assert (tiny * np.float32(1) != 0).all()
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
