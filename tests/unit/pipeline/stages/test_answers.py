"""Who answers for a built engine: itself where it runs here, else ONNX Runtime on the same graph."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.data import Split
from pipeline.stages import answers as module
from pipeline.stages import evaluate as evaluate_module
from pipeline.stages.answers import answers, ask_in_child, stands_in
from pipeline.stages.bundle import golden_atol
from targets import machine
from targets.engines.base import Availability
from targets.options import TensorRtOptions
from targets.profile import TargetProfile, load_profile

if TYPE_CHECKING:
    from pathlib import Path

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
        ({"avx2", "fma"}, "raspberry-pi-5", {"precision": "int8", "file": "engine.ort"}, True),
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
