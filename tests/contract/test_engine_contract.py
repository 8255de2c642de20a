"""The promises every engine keeps; one suite, all engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from targets import engines, machine
from targets.engines.base import Engine, EngineBuild
from targets.errors import EnvironmentFailure, InputError, RefusedError
from targets.files import sha256_file
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.profile import TargetProfile, load_profile

if TYPE_CHECKING:
    from pathlib import Path

TOTAL = """
<ir_version: 10, opset_import: ["" : 18]>
total (float[batch, 3] x) => (float y) { y = ReduceSum <keepdims=0> (x) }
"""
NEW = """
<ir_version: 10, opset_import: ["" : 99]>
new (float[batch, 3] x) => (float[batch, 3] y) { y = Relu (x) }
"""
ELSEWHERE = {"x86_64": "raspberry-pi-5", "aarch64": "x86-64-avx2"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One engine in one configuration.

    Attributes:
        name: For the test's name.
        options: How the profile has it.
        scheme: Its dialect.
        int8: The model of that dialect.
        modules: What must be importable for it to be there.
        extra: What its remedy tells to install.
        targets: Bundled profiles that the suite builds for.
        foreign: It opens engines of another architecture, for their outputs.
    """

    name: str
    options: EngineOptions
    scheme: str
    int8: str
    modules: tuple[str, ...]
    extra: str
    targets: tuple[str, ...] = ("host",)
    foreign: bool = False

    @property
    def engine(self) -> Engine:
        return engines.engine(self.options.name)

    def profile(self, target: str = "host") -> TargetProfile:
        loaded = load_profile(target)
        changes: dict[str, object] = {
            "engine": self.options,
            "quantization": loaded.quantization.model_copy(update={"scheme": self.scheme}),
            "alternatives": (),
        }
        if self.name.startswith("tensorrt"):
            changes["hardware"] = loaded.hardware.model_copy(update={"compute_capability": "8.6"})
        return loaded.model_copy(update=changes)

    def model(self, models: dict[str, Path], precision: str) -> Path:
        return models[self.int8 if precision == "int8" else precision]

    def build(self, models: dict[str, Path], out: Path, precision: str = "fp32", target: str = "host") -> EngineBuild:
        return self.engine.build(self.model(models, precision), self.profile(target), out, precision=precision)


ONNXRUNTIME = Case(
    name="onnxruntime",
    options=OnnxRuntimeOptions(name="onnxruntime"),
    scheme="ort-x86",
    int8="int8",
    modules=("onnxruntime",),
    extra="onnxruntime",
    targets=("host", "x86-64-avx2", "raspberry-pi-5"),
    foreign=True,
)
CASES = (
    ONNXRUNTIME,
    replace(ONNXRUNTIME, name="onnxruntime-ort", options=OnnxRuntimeOptions(name="onnxruntime", format="ort")),
    Case(
        name="openvino",
        options=OpenVinoOptions(name="openvino"),
        scheme="openvino",
        int8="int8",
        modules=("openvino",),
        extra="openvino",
        foreign=True,
    ),
    Case(
        name="tensorrt-rtx",
        options=TensorRtOptions(name="tensorrt-rtx", compute_capabilities=("8.6",), batch=(1, 4, 8)),
        scheme="trt",
        int8="int8-symmetric",
        modules=("tensorrt_rtx",),
        extra="tensorrt-rtx",
    ),
)
ON_TARGETS = pytest.mark.parametrize(
    ("case", "target"), [pytest.param(c, t, id=f"{c.name}-{t}") for c in CASES for t in c.targets]
)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    if not found.engine.available().ok and machine.arch() != "x86_64":
        pytest.skip(f"{found.name} has no package for {machine.arch()}")
    return found


@pytest.fixture
def running(case: Case) -> Case:
    """A case whose engines this machine can open; for tests that are parametrised over `ON_TARGETS` too."""
    there = case.engine.runs(case.profile())
    if not there.ok:
        pytest.skip(f"{case.name} does not run here: {there.why}")
    return case


def test_available(case: Case) -> None:
    """An engine that is installed says so, with its version."""
    answer = case.engine.available()
    assert answer.ok, answer
    assert any(character.isdigit() for character in answer.why)


def test_unknown_engine_is_named_with_the_nearest() -> None:
    """Asking for an engine that is not there gives an error with the nearest name."""
    with pytest.raises(InputError, match="onnxruntime"):
        engines.engine("onxruntime")


def test_not_installed(case: Case, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose package is missing says what to install and which versions; nothing is built, nothing runs."""
    for module in case.modules:
        monkeypatch.setitem(sys.modules, module, None)
    answer = case.engine.available()
    assert not answer.ok
    assert case.extra in answer.fix
    assert any(character.isdigit() for character in answer.fix), answer.fix
    assert not case.engine.runs(case.profile()).ok
    with pytest.raises(EnvironmentFailure) as caught:
        case.build(models, tmp_path / "e")
    assert caught.value.fix == answer.fix
    assert not (tmp_path / "e").exists()


def test_another_architecture(case: Case) -> None:
    """An engine for another architecture does not run here, and both are named; what is compiled when it opens does."""
    target = ELSEWHERE[machine.arch()]
    answer = case.engine.runs(case.profile(target))
    assert answer.ok is case.foreign
    if not case.foreign:
        assert load_profile(target).hardware.arch in answer.why
        assert machine.arch() in answer.why


@ON_TARGETS
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_same_model_same_bytes(
    case: Case, models: dict[str, Path], tmp_path: Path, target: str, precision: str
) -> None:
    """Two builds of the same model, from different folders, are equal file by file, or the engine says they are not."""
    other = tmp_path / "another folder" / "model.onnx"
    other.parent.mkdir()
    shutil.copyfile(case.model(models, precision), other)
    first = case.build(models, tmp_path / "a", precision, target)
    second = case.engine.build(other, case.profile(target), tmp_path / "b", precision=precision)
    names = sorted(path.name for path in first.folder.iterdir())
    assert {"engine.json", "inspect.json", first.file} <= set(names)
    assert first.sha256 == sha256_file(first.folder / first.file)
    assert first.files == {name: sha256_file(first.folder / name) for name in first.files}
    assert str(tmp_path).encode() not in (first.folder / first.file).read_bytes()
    assert names == sorted(path.name for path in second.folder.iterdir())
    for name in names if case.engine.reproducible else []:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


@ON_TARGETS
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_computes_what_the_model_computes(
    running: Case, models: dict[str, Path], samples: np.ndarray, tmp_path: Path, target: str, precision: str
) -> None:
    """An engine gives what the ONNX reference implementation gives, for any batch size and every target."""
    model = running.model(models, precision)
    wanted = ReferenceEvaluator(onnx.load(str(model))).run(None, {"x": samples})[0]
    build = running.build(models, tmp_path / "e", precision, target)
    with running.engine.open(build) as runner:
        together = runner.infer({"x": samples})["y"]
        alone = np.concatenate([runner.infer({"x": samples[i : i + 1]})["y"] for i in range(len(samples))])
    # One step of the int8 activation (0.1) averaged over 64 pixels: rounding of ties may differ, never more.
    tolerance = 1e-5 if precision == "fp32" else 0.1
    np.testing.assert_allclose(together, wanted, atol=tolerance * np.abs(wanted).max())
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_the_model_beside_an_engine_computes_the_same(
    case: Case, models: dict[str, Path], samples: np.ndarray, tmp_path: Path
) -> None:
    """Where an engine does not run everywhere it is built, an ONNX file in its folder computes the same function."""
    build = case.build(models, tmp_path / "e", "int8")
    if not build.model:
        assert case.engine.runs(case.profile()).ok
        return
    wanted = ReferenceEvaluator(onnx.load(str(case.model(models, "int8")))).run(None, {"x": samples})[0]
    found = ReferenceEvaluator(onnx.load(str(build.folder / build.model))).run(None, {"x": samples})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_build_says_what_runs_in_int8(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """inspect.json counts the int8 nodes and names what stayed float; inspecting the engine again gives the same."""
    build = case.build(models, tmp_path / "e", "int8")
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert seen["engine"] == case.options.name
    assert seen["compute"]["total"] == 2
    assert seen["compute"]["int8"] >= 1
    assert sum(seen["precisions"].values()) == seen["compute"]["total"]
    if not seen["inspected"]:
        assert sum(seen["nodes"].values()) == sum(seen["providers"].values())
        assert set(seen["float_compute"]) <= set(seen["fallbacks"])
    again = json.loads(json.dumps(case.engine.inspect(build).to_json()))
    assert {**again, "warnings": 0} == {**seen, "warnings": 0}
    assert set(again["warnings"]) <= set(seen["warnings"])


def test_macs_are_those_of_the_model(running: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """The share of int8 is counted in multiply-accumulates: the convolution's and not the float head's."""
    seen = running.engine.inspect(running.build(models, tmp_path / "e", "int8"))
    convolution, head = 16 * 3 * 9 * 64, 4 * 16
    assert seen.compute["macs"] == convolution + head
    assert seen.compute["int8_macs"] in {convolution, convolution + head}
    assert seen.actual_precision in {"mixed", "int8"}


def test_what_stayed_float_is_said_aloud(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """Less int8 than the model asks for, or nobody who can see it, is a warning; its own float layers are none."""
    build = case.build(models, tmp_path / "e", "int8")
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert seen["asked"] >= 1
    said = [warning for warning in seen["warnings"] if "int8" in warning or "nobody has seen" in warning]
    assert bool(said) == (bool(seen["inspected"]) or seen["compute"]["int8"] < seen["asked"])


def test_int8_that_stays_float_is_an_error(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """Asked for int8, an engine in which nothing runs in int8 is refused, not delivered."""
    with pytest.raises(InputError, match="int8"):
        case.engine.build(models["fp32"], case.profile(), tmp_path / "e", precision="int8")
    assert not (tmp_path / "e" / "engine.json").exists()


def test_fp32_that_is_int8_is_an_error(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """Asked for fp32, a quantised model is refused."""
    with pytest.raises(InputError, match="fp32"):
        case.engine.build(models[case.int8], case.profile(), tmp_path / "e", precision="fp32")
    assert not (tmp_path / "e" / "engine.json").exists()


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
    running: Case, models: dict[str, Path], tmp_path: Path, feed: dict[str, np.ndarray], parts: list[str]
) -> None:
    """A feed of wrong name, dtype, shape or no sample is refused, with what is wanted and what was given."""
    build = running.build(models, tmp_path / "e")
    with running.engine.open(build) as runner, pytest.raises(InputError) as caught:
        runner.infer(feed)
    for part in parts:
        assert part in caught.value.why


def test_a_changed_engine_is_not_opened(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """One flipped bit in the engine file, or in a file beside it, and it is refused before the runtime sees it."""
    build = case.build(models, tmp_path / "e")
    for name in (build.file, *build.files):
        path = build.folder / name
        kept = path.read_bytes()
        data = bytearray(kept)
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(RefusedError, match="not the one"), case.engine.open(build):
            pass
        path.write_bytes(kept)


def test_engine_json_round_trip(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """What is read back from engine.json is what was built; another schema is refused."""
    build = case.build(models, tmp_path / "e")
    read = EngineBuild.read(build.folder)
    assert read.to_json() == json.loads(json.dumps(build.to_json())) | {
        "inputs": read.to_json()["inputs"],
        "outputs": read.to_json()["outputs"],
    }
    assert (read.inputs, read.outputs) == (build.inputs, build.outputs)
    (build.folder / "engine.json").write_text(json.dumps({**build.to_json(), "schema": 2}))
    with pytest.raises(InputError, match="holds no engine"):
        EngineBuild.read(build.folder)


def test_ports_are_those_of_the_model(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """engine.json names inputs and outputs as the model does, with the batch axis free."""
    build = case.build(models, tmp_path / "e")
    assert [(port.name, port.dtype, port.shape[1:]) for port in build.inputs] == [("x", "float32", (3, 8, 8))]
    assert [(port.name, port.dtype, port.shape[1:]) for port in build.outputs] == [("y", "float32", (4,))]
    assert isinstance(build.inputs[0].shape[0], str)


def test_check_names_every_fault(case: Case, wide_free_model: Path) -> None:
    """A free axis other than the batch and a foreign operator are refused by name, all at once."""
    model = onnx.load(str(wide_free_model))
    model.graph.node[1].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, str(wide_free_model))
    said = "\n".join(fault.where for fault in case.engine.check(wide_free_model, case.profile()))
    assert "'x'" in said
    assert "relu" in said


def test_an_output_without_batch_axis_is_refused(case: Case, tmp_path: Path) -> None:
    """One number for a whole batch is no output of a sample: refused before anything is built."""
    model = tmp_path / "sum.onnx"
    onnx.save(onnx.parser.parse_model(TOTAL), str(model))
    assert "output 'y'" in [fault.where for fault in case.engine.check(model, case.profile())]


def test_an_opset_that_nobody_reads(case: Case, tmp_path: Path) -> None:
    """A model of an opset that the engine cannot read is refused with that opset's number; nothing is built."""
    model = tmp_path / "new.onnx"
    onnx.save(onnx.parser.parse_model(NEW), str(model))
    with pytest.raises(InputError, match="99"):
        case.engine.build(model, case.profile(), tmp_path / "e", precision="fp32")
    assert not (tmp_path / "e" / "engine.json").exists()


def test_the_linter_accepts_good_models(case: Case, models: dict[str, Path]) -> None:
    """Nothing is wrong with the models of this suite."""
    assert case.engine.check(models["fp32"], case.profile()) == []
    assert case.engine.check(models[case.int8], case.profile()) == []


def test_builds_into_an_empty_folder_only(case: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """A folder that holds something is left as it is."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        case.build(models, tmp_path / "e")
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["mine.txt"]


def test_the_host_computes_on_as_before(running: Case, models: dict[str, Path], tmp_path: Path) -> None:
    """Building, inspecting and running an engine that flushes subnormals does not make this process flush them."""
    code = f"""
import numpy as np
from pathlib import Path
from targets.engines import engine
from targets.profile import TargetProfile
tiny = np.full(4, 1e-40, np.float32)
profile = TargetProfile.model_validate_json({running.profile().model_dump_json()!r}, strict=False)
model, out = Path({str(models["fp32"])!r}), Path({str(tmp_path / "e")!r})
built = engine(profile.engine.name)
with built.open(built.build(model, profile, out, precision="fp32")) as runner:
    runner.infer({{"x": np.zeros((1, 3, 8, 8), np.float32)}})
    assert (tiny * np.float32(1) != 0).all()
assert (tiny * np.float32(1) != 0).all()
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
