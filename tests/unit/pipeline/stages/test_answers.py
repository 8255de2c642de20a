"""Who answers for a built engine: itself where it runs here, else ONNX Runtime on the same graph."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.dynamic import quantize_dynamic_model
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from calibration.saturation import saturating_outputs
from pipeline.data import Split
from pipeline.stages import answers as module
from pipeline.stages import evaluate as evaluate_module
from pipeline.stages.answers import EXACT, STAND_IN, answered_by, answers, ask_in_child, stands_in
from pipeline.stages.bundle import golden_atol
from targets import machine
from targets.engines import engine as build_engine
from targets.engines.base import Availability
from targets.options import TensorRtOptions
from targets.profile import TargetProfile, load_profile
from targets.scheme import scheme

if TYPE_CHECKING:
    from pathlib import Path

    from targets.options import Precision

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
SPLIT = Split(inputs={"x": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}, labels=None)


def built(folder: Path, **special: object) -> Path:
    """An engine's folder whose graph is a matrix product."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    (folder / "engine.json").write_text(json.dumps({"file": "m.onnx", "model": "", **special}), encoding="utf-8")
    return folder


@pytest.fixture
def profile() -> TargetProfile:
    return load_profile("x86-64-avx2").model_copy(update={"engine": TensorRtOptions(name="tensorrt")})


def test_an_engine_that_runs_everywhere_is_not_asked_about(
    profile: TargetProfile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It answers itself, and no process is started to find that out."""
    monkeypatch.setattr(module, "runs_here", lambda _: pytest.fail("asked"))
    monkeypatch.setattr(module, "run_engine", lambda *_, **__: {"y": "its own"})
    assert stands_in(built(tmp_path), profile) == ""
    assert answers(tmp_path, SPLIT, profile, tmp_path) == {"y": "its own"}


@pytest.mark.parametrize("special", [{"build_on_device": True}, {"model": "m.onnx", "file": "engine.plan"}])
def test_where_it_does_not_run_its_graph_answers(
    special: dict[str, Any], profile: TargetProfile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same function, by ONNX Runtime, whatever the batch size; and why is said."""
    monkeypatch.setattr(module, "runs_here", lambda _: "no GPU here")
    monkeypatch.setattr(module, "run_engine", lambda *_, **__: pytest.fail("it does not run here"))
    folder = built(tmp_path, **special)
    assert stands_in(folder, profile) in {"it is built on the device", "no GPU here"}
    assert answered_by(folder, profile) == f"{STAND_IN} ({stands_in(folder, profile)})"
    for size in (None, 1, 4):
        found = answers(folder, SPLIT, profile, tmp_path, batch_size=size)
        np.testing.assert_allclose(found["y"], SPLIT.inputs["x"] @ WEIGHT, rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "target", "special", "itself"),
    [
        ({"avx2", "fma"}, "raspberry-pi-5", {"precision": "int8"}, False),
        ({"avx2", "fma"}, "x86-64-vnni", {"precision": "int8"}, False),
        ({"avx2", "fma"}, "x86-64-avx2", {"precision": "int8"}, True),
        ({"avx2", "fma"}, "raspberry-pi-5", {"precision": "fp32"}, True),
        ({"avx2", "fma", "avx_vnni"}, "raspberry-pi-5", {"precision": "int8"}, True),
    ],
)
def test_sums_that_saturate_only_here_are_not_the_targets(
    features: set[str], target: str, special: dict[str, Any], itself: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """8-bit weights on x86 without VNNI: the graph answers for an Arm board's engine, in float around Q/DQ."""
    monkeypatch.setattr(machine, "arch", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(module, "run_engine", lambda *_, **__: {"y": "its own"})
    folder, profile = built(tmp_path, **special), load_profile(target)
    assert ("no VNNI" in stands_in(folder, profile)) is not itself
    found = answers(folder, SPLIT, profile, tmp_path)["y"]
    if itself:
        assert found == "its own"
    else:
        np.testing.assert_allclose(found, SPLIT.inputs["x"] @ WEIGHT, rtol=1e-5)


WITHOUT_VNNI = frozenset({"avx2", "fma", "avx512f"})
vnni = pytest.mark.skipif(
    not machine.cpu_features() & {"avx512_vnni", "avx_vnni"},
    reason="the engine's own answers, to compare with, saturate on this CPU",
)


def loud(folder: Path, peak: float = 1.0) -> tuple[Path, Split]:
    """A float net of two dense layers whose int8 pairs do not fit 16 bits, and samples that show it."""
    rng = np.random.default_rng(7)
    constants = {"w": rng.uniform(0.5, peak, (24, 16)), "b": rng.normal(size=16), "v": rng.uniform(0.2, peak, (16, 5))}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes, "loud",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "f.onnx")
    samples = rng.uniform(0.8, 1.0, (37, 24)).astype(np.float32)
    return folder / "f.onnx", Split(inputs={"x": samples}, labels=None)


def engine_of(model: Path, folder: Path, precision: Precision, form: str, target: str) -> tuple[Path, TargetProfile]:
    """An engine for another CPU than this, in that format, and its target."""
    profile = load_profile(target)
    engine = profile.engine.model_copy(update={"format": form})
    profile = profile.model_copy(update={"engine": engine, "alternatives": ()})
    return build_engine("onnxruntime").build(model, profile, folder / "engine", precision=precision).folder, profile


@vnni
@pytest.mark.parametrize(("precision", "form"), [("int8", "ort"), ("int8-dynamic", "onnx"), ("int8-dynamic", "ort")])
@pytest.mark.parametrize("target", ["raspberry-pi-5", "x86-64-vnni"])
def test_exact_answers_are_those_of_a_cpu_with_vnni(
    precision: Precision, form: str, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of files that hold integer operators, whatever the batch: bit for bit, and all texts say who answered.

    Equal bits: what lies between the sums runs in the same runtime, and the numbers around them are the kernels'.
    Saturating sums would be far off: that is asserted too.
    """
    float_model, split = loud(tmp_path)
    quantised = tmp_path / "q.onnx"
    if precision == "int8":
        table = collect(float_model, CalibrationSet(dict(split.inputs), batch_size=37), threads=1)
        quantize_model(float_model, table, scheme(load_profile(target).quantization.scheme), "minmax", quantised)
    else:
        quantize_dynamic_model(float_model, quantised, min_elements=0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(machine, "cpu_features", lambda: WITHOUT_VNNI)
        folder, profile = engine_of(quantised, tmp_path, precision, form, target)
        elsewhere.setattr(module, "run_engine", lambda *_, **__: pytest.fail("its sums saturate"))
        assert "no VNNI" in stands_in(folder, profile)
        assert answered_by(folder, profile) == f"{EXACT} ({stands_in(folder, profile)})"
        found = {size: answers(folder, split, profile, tmp_path, batch_size=size)["y"] for size in (1, 8)}
    assert (stands_in(folder, profile), answered_by(folder, profile)) == ("", "")
    for size, array in found.items():
        np.testing.assert_array_equal(array, answers(folder, split, profile, tmp_path, batch_size=size)["y"])
    _, saturated = saturating_outputs(quantised, [dict(split.inputs)], threads=1)
    assert np.abs(saturated["y"] - found[8]).max() > 0.05 * np.ptp(found[8])


@pytest.mark.parametrize("form", ["onnx", "ort"])
def test_what_cannot_saturate_answers_itself(form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights of 7 bits, though the target could do with 8: its engine's own answers, whatever runs here."""
    model, split = loud(tmp_path)
    quantize_dynamic_model(model, tmp_path / "q.onnx", min_elements=0, weight_bits=7)
    monkeypatch.setattr(machine, "cpu_features", lambda: WITHOUT_VNNI)
    folder, profile = engine_of(tmp_path / "q.onnx", tmp_path, "int8-dynamic", form, "raspberry-pi-5")
    assert (stands_in(folder, profile), answered_by(folder, profile)) == ("", "")
    monkeypatch.setattr(module, "run_engine", lambda *_, **__: {"y": "its own"})
    assert answers(folder, split, profile, tmp_path) == {"y": "its own"}


@pytest.mark.parametrize("with_head", [False, True])
def test_an_lstm_keeps_its_own_sums_and_is_named(
    with_head: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path  # noqa: FBT001
) -> None:  # fmt: skip
    """Alone, the engine answers; beside a product, that is exact: either way the text names the LSTM."""
    rng = np.random.default_rng(0)
    shapes = {"w": (1, 128, 20), "r": (1, 128, 32), "v": (32, 5)}
    weights = {name: rng.uniform(-0.1, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r"], ["", "h"], "cell", hidden_size=32),
        helper.make_node("Squeeze", ["h", "axis"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes, "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(a, n) for n, a in {**weights, "axis": np.array([0])}.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    quantize_dynamic_model(model, tmp_path / "q.onnx", min_elements=0 if with_head else 1000)
    monkeypatch.setattr(machine, "cpu_features", lambda: WITHOUT_VNNI)
    folder, profile = engine_of(tmp_path / "q.onnx", tmp_path, "int8-dynamic", "onnx", "raspberry-pi-5")
    by = answered_by(folder, profile)
    assert "DynamicQuantizeLSTM 'cell'" in by
    assert bool(stands_in(folder, profile)) is with_head
    assert by.startswith(EXACT if with_head else "the engine itself")
    split = Split(inputs={"x": rng.normal(size=(9, 6, 20)).astype(np.float32)}, labels=None)
    assert np.isfinite(answers(folder, split, profile, tmp_path)["y"]).all()


def test_where_it_does_not_run_no_float_engine_is_built_to_compare_with(
    profile: TargetProfile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A task without labels compares with the float graph by ONNX Runtime: the engine may have no fp32, as a DLA."""
    monkeypatch.setattr(evaluate_module, "build_engine", lambda *_: pytest.fail("built"))
    folder = built(tmp_path, build_on_device=True)
    ports = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}], "outputs": [{"name": "y"}]}
    reference = SimpleNamespace(model=folder / "m.onnx", read_json=lambda _: ports)
    task = SimpleNamespace(needs_labels=False, score=lambda outputs, _, wanted: float((outputs[0] == wanted[0]).all()))
    data: Any = {"validation": SPLIT}
    assert evaluate_module.evaluate(folder, "validation", reference, profile, task, data, tmp_path) == 1.0  # type: ignore[arg-type]


def test_with_the_hardware_there_it_answers_itself(
    profile: TargetProfile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A graph that could stand in does not, where the engine runs."""
    monkeypatch.setattr(module, "runs_here", lambda _: "")
    monkeypatch.setattr(module, "run_engine", lambda *_, **__: {"y": "its own"})
    assert answers(built(tmp_path, model="m.onnx"), SPLIT, profile, tmp_path) == {"y": "its own"}


def test_the_engine_itself_is_asked(profile: TargetProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words say why not."""

    class Absent:
        def runs(self, _: TargetProfile) -> Availability:
            return Availability(ok=False, why="libcuda.so.1 is missing", fix="a GPU")

    monkeypatch.setattr("targets.engines.engine", lambda _: Absent())
    assert ask_in_child({"profile": profile.model_dump(mode="json")}) == {"why_not": "libcuda.so.1 is missing"}


@pytest.mark.parametrize(
    ("precision", "share"),
    [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 4e-2), ("int8", 4 / 255), ("int8-dynamic", 4 / 255)],
)
def test_golden_answers_are_as_exact_as_their_format(precision: str, share: float) -> None:
    """Of outputs from -1 to 1: a share of their magnitude for floats, two steps of their range for integers."""
    assert golden_atol(np.array([-1.0, 0.0, 1.0], np.float32), precision) == pytest.approx(share)
