"""The stage that measures: what it asks of a campaign, and what it keeps."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import CandidateBuild, DatasetInfo
from pipeline.data import Dataset, Split
from pipeline.stages import answers
from pipeline.stages.base import Context
from pipeline.stages.benchmark import BenchmarkInputs, BenchmarkStage
from pipeline.tasks import TASKS, Classification
from targets import machine
from targets.errors import DeviceError, DeviceLost
from targets.options import OpenVinoOptions, TensorRtOptions
from targets.profile import Alternative, DeviceSection, Quantization, load_profile

ENGINE: dict[str, Any] = {
    "schema": 1, "engine": "onnxruntime", "runtime": "onnxruntime", "runtime_version": "1", "options": {},
    "file": "engine.onnx", "sha256": "s", "precision": "int8",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 2]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["n", 2]}],
}  # fmt: skip


@pytest.fixture
def src(tmp_path: Path) -> BenchmarkInputs:
    return inputs(tmp_path, int8={})


def inputs(folder: Path, **engines: dict[str, Any]) -> BenchmarkInputs:
    """Built candidates, with what is special about each engine.json."""
    builds = []
    for name, special in engines.items():
        place = folder / f"build-{name}"
        place.mkdir()
        (place / "engine.json").write_text(json.dumps({**ENGINE, **special}), encoding="utf-8")
        node = f"build:{name.replace('_', '-')}"
        results = {"precision": "int8", "accuracy": 0.9, "size_bytes": 1}
        builds.append(CandidateBuild(node=node, folder=place, digest="d", results=results, wall_s=0.0))
    data = DatasetInfo(node="data", folder=folder, digest="d", results={}, wall_s=0.0)
    return BenchmarkInputs(data=data, builds=tuple(builds))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    split = Split(inputs={"x": np.zeros((99, 2), np.float32)}, labels=np.zeros(99, np.int64))
    data: Any = SimpleNamespace(checked=lambda *_: Dataset(splits={"validation": split}))
    (tmp_path / "out").mkdir()
    return Context(
        progress=lambda *_, **__: None, warn=lambda _: None, scratch=tmp_path, state=tmp_path / "state", data=data
    )


def _device(name: str, facts: object) -> SimpleNamespace:
    """A device that lends a session nobody uses."""
    return SimpleNamespace(name=name, kind="local", facts=lambda: facts, session=lambda: nullcontext(object()))


OTHERS = (
    Alternative(engine=OpenVinoOptions(name="openvino"), quantization=Quantization(scheme="openvino")),
    Alternative(engine=TensorRtOptions(name="tensorrt"), quantization=Quantization(scheme="trt")),
)


def stage(*, device: str, accuracy: bool, required: tuple[str, ...] = ()) -> BenchmarkStage:
    changes = {"device": DeviceSection(affinity="0", memory_limit_mb=512), "alternatives": OTHERS}
    profile = load_profile("host").model_copy(update=changes)
    return BenchmarkStage(
        source=None,  # type: ignore[arg-type]  # the data are given
        profile=profile, task=Classification(), device=device, fingerprint="f", mode="quick", budget_s=9.0,
        accuracy_on_device=accuracy, seed=3, required=required,
    )  # fmt: skip


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A campaign that happened on a device that is there; what it was asked."""
    seen: dict[str, Any] = {}

    def run(entrants: Any, device: Any, options: Any, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        seen.update(entrants=entrants, device=device.name, options=options, **more)
        if seen.get("lost"):
            raise DeviceLost("device 'pi4' was lost", "after block 4 of 7", "run it again")
        return {
            "campaign": {"blocks": 3, "stop": "blocks"},
            "quality": {"grade": "B"},
            "results": {"int8": {"latency_ms": {"value": 1.0}}},
            "engines": {"int8": {}},
        }

    monkeypatch.setattr("pipeline.benchmarking.campaign.run_campaign", run)
    raw = {"openvino": None}
    told = SimpleNamespace(raw=raw)
    monkeypatch.setattr("targets.devices.device", lambda name: _device(name, told))
    monkeypatch.setattr("pipeline.stages.expected.answers", lambda *_, **__: {"y": np.ones((64, 2), np.float32)})
    score = {"int8": {"value": 0.5, "metric": "accuracy", "samples": 99, "device": "pi4"}}
    monkeypatch.setattr("pipeline.benchmarking.accuracy.score_on_device", lambda *_, **__: score)
    return seen


def test_the_campaign_gets_all_that_recipe_and_profile_say(
    src: BenchmarkInputs, context: Context, campaign: dict[str, Any], tmp_path: Path
) -> None:
    """Device, mode, budget, affinity, memory, expected outputs with their tolerance, and where to keep blocks."""
    stage(device="pi4", accuracy=False).run(src, tmp_path / "out", context)
    options = campaign["options"]
    assert (campaign["device"], campaign["state"]) == ("pi4", tmp_path / "state")
    assert (options.mode, options.budget_s, options.affinity, options.memory_limit_mb) == ("quick", 9.0, "0", 512)
    (entrant,) = campaign["entrants"]
    with np.load(entrant.samples) as samples, np.load(entrant.expected) as wanted:
        assert samples["x"].shape == (64, 2)
        assert wanted["output.y"].shape == (64, 2)
        assert wanted["atol.y"] >= 0


def test_accuracy_on_the_device_stands_in_the_document(
    src: BenchmarkInputs, context: Context, campaign: dict[str, Any], tmp_path: Path
) -> None:
    """Only where it was asked for."""
    results = stage(device="pi4", accuracy=True).run(src, tmp_path / "out", context)
    assert results["accuracies_on_device"] == {"int8": 0.5}
    document = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert document["accuracy_on_device"]["int8"]["device"] == "pi4"


def test_a_lost_device_leaves_no_result(
    src: BenchmarkInputs, context: Context, campaign: dict[str, Any], tmp_path: Path
) -> None:
    """The stage fails as lost, so nothing is cached, and the next run goes on from the blocks kept."""
    campaign["lost"] = True
    with pytest.raises(DeviceLost):
        stage(device="pi4", accuracy=False).run(src, tmp_path / "out", context)
    assert not (tmp_path / "out" / "benchmark.json").exists()


@pytest.mark.parametrize(
    ("features", "alike"), [({"avx2", "fma"}, False), ({"avx2", "avx512_vnni"}, True), ({"avx2", "avx_vnni"}, True)]
)
def test_saturating_cpus_do_not_promise_the_answers_of_others(
    features: set[str],
    alike: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """8-bit weights saturate on x86 without VNNI: such a machine cannot say what an Arm board must answer."""
    monkeypatch.setattr(machine, "arch", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(features))
    assert answers.computes_alike(load_profile("raspberry-pi-5")) is alike
    assert answers.computes_alike(load_profile("x86-64-avx2")), "7-bit weights never saturate"
    phone = load_profile("android-arm64").choices()
    assert answers.computes_alike(phone["qnn-a16"]), "16-bit activations are computed in float"
    assert answers.computes_alike(phone["qnn"]) is alike


OPENVINO = {"engine": "openvino", "runtime": "openvino", "runtime_version": "2026.4.0-1-x"}
RTX = {"engine": "tensorrt-rtx", "runtime": "tensorrt_rtx", "runtime_version": "1.7.1", "build_on_device": False}
TENSORRT = {"engine": "tensorrt", "runtime": "tensorrt", "build_on_device": True, "model": "engine.onnx"}


def test_what_does_not_run_there_is_left_out_and_named(
    context: Context, campaign: dict[str, Any], tmp_path: Path
) -> None:
    """A board without OpenVINO measures the others; the document says what to install."""
    warned: list[str] = []
    object.__setattr__(context, "warn", warned.append)
    src = inputs(tmp_path, int8={}, openvino_int8=OPENVINO)
    results = stage(device="pi4", accuracy=False).run(src, tmp_path / "out", context)
    assert [entrant.name for entrant in campaign["entrants"]] == ["int8"]
    document = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert document["unmeasured"]["openvino-int8"]["fix"].endswith("pip install openvino==2026.4.0")
    assert list(results["unmeasured"]) == ["openvino-int8"]
    assert "openvino-int8 is not measured" in warned[0]


@pytest.mark.parametrize(("task", "scored"), [("fidelity", False), ("classification", True)])
def test_accuracy_is_not_compared_with_an_engine_that_is_no_reference(
    task: str,
    scored: bool,  # noqa: FBT001 - a column of the table
    context: Context,
    campaign: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Where the uncompressed engine does not run there, a task without labels scores nothing there, and says so."""
    warned: list[str] = []
    object.__setattr__(context, "warn", warned.append)
    src = inputs(tmp_path, openvino_fp32=OPENVINO, int8={})
    asked = replace(stage(device="pi4", accuracy=True), task=TASKS[task]())
    assert bool(asked.run(src, tmp_path / "out", context)["accuracies_on_device"]) == scored
    assert any("compare with does not run" in line for line in warned) != scored


def test_locally_the_machine_must_drive_the_engine(
    context: Context, campaign: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a GPU no TensorRT is measured here; what runs anywhere is not even asked."""
    asked = []
    monkeypatch.setattr(
        "pipeline.benchmarking.measurable.runs_here", lambda profile: asked.append(profile.engine.name) or "no GPU"
    )
    src = inputs(tmp_path, int8={}, tensorrt_int8=TENSORRT)
    results = stage(device="local", accuracy=False).run(src, tmp_path / "out", context)
    assert asked == ["tensorrt"]
    assert "no GPU" in results["unmeasured"]["tensorrt-int8"]


def test_an_engine_that_comes_built_needs_its_runtime_there(
    context: Context, campaign: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A device without TensorRT-RTX leaves that engine out, as one without OpenVINO does, and measures the others."""
    told = SimpleNamespace(raw={"tensorrt_rtx": None})
    monkeypatch.setattr("targets.devices.device", lambda name: _device(name, told))
    src = inputs(tmp_path, int8={}, rtx_int8={**TENSORRT, **RTX})
    stage(device="pc", accuracy=False).run(src, tmp_path / "out", context)
    assert [entrant.name for entrant in campaign["entrants"]] == ["int8"]
    document = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert document["unmeasured"]["rtx-int8"]["fix"].endswith("pip install tensorrt_rtx==1.7.1")


@pytest.mark.parametrize(
    ("names", "required"), [(["int8", "openvino_int8"], ("openvino-int8",)), (["openvino_int8"], ())]
)
def test_what_the_recipe_names_must_be_measured(
    names: list[str], required: tuple[str, ...], context: Context, campaign: dict[str, Any], tmp_path: Path
) -> None:
    """And something must be: else it is the device's error, and no campaign begins."""
    src = inputs(tmp_path, **{name: OPENVINO if "openvino" in name else {} for name in names})
    with pytest.raises(DeviceError, match="the engine openvino of openvino-int8 does not run on pi4"):
        stage(device="pi4", accuracy=False, required=required).run(src, tmp_path / "out", context)
    assert "entrants" not in campaign
