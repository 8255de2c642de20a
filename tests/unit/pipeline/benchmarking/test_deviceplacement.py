"""Where an engine's nodes run is asked of the device: counted, judged, and only then measured."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from pipeline.benchmarking import staging
from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign
from pipeline.benchmarking.devicebuild import send_engines
from pipeline.benchmarking.deviceplacement import NotPlacedThere
from targets.devices import device as device_named
from targets.engines import engine
from targets.engines.base import EngineBuild
from targets.errors import DeviceError
from targets.options import OnnxRuntimeOptions
from targets.profile import load_profile

Make = Any  # the fixture that makes a synthetic device
CPU, NPU, NOTHING = "CPUExecutionProvider", "QNNExecutionProvider", "AzureExecutionProvider"
QUICK = CampaignOptions(budget_s=6, mode="quick")
NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[batch, 3] x) => (float[batch, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { h = MatMul (x, w) y = Relu (h) }
"""


def counted(**operators: dict[str, int]) -> dict[str, Any]:
    """What the device says, by ``npu`` and ``cpu``."""
    found = {{"npu": NPU, "cpu": CPU}[name]: kinds for name, kinds in operators.items()}
    nodes = {name: sum(kinds.values()) for name, kinds in found.items()}
    return {"result": {"runtime_version": "1.2", "providers": [NPU, CPU], "nodes": nodes, "operators": found}}


@pytest.fixture
def unseen(entrants: list[Entrant]) -> list[Entrant]:
    """The second engine is for a provider that nobody could look into: two convolutions and a Relu."""
    build = EngineBuild.read(entrants[1].folder)
    dataclasses.replace(build, options={**build.options, "providers": [NPU, CPU]}).write()
    path = entrants[1].folder / "inspect.json"
    seen = {"inspected": "no NPU here", "compute": {"total": 2}, "nodes": {"Conv": 2, "Relu": 1}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **seen}))
    return entrants


def npu(synthetic: Make, answer: dict[str, Any]) -> Any:  # noqa: ANN401
    device = synthetic(providers=[NPU, CPU])
    device.builds = {"engines/1": answer}
    return device


def test_the_device_counts_before_the_first_block(synthetic: Make, unseen: list[Entrant]) -> None:
    """Once an engine that nobody saw, on real samples, before anything else; no other engine is asked of."""
    device = npu(synthetic, counted(npu={"QNN_part_0": 1}))
    asked: list[list[str]] = []
    device.before = asked.append
    document = run_campaign(unseen, device, QUICK)
    assert asked[0][:2] == ["placement", "engines/1"]
    assert asked[0][asked[0].index("--samples") + 1] in device.files
    assert [command[0] for command in asked].count("placement") == 1
    engines = document["engines"]
    assert engines["int8"]["placement"] == {NPU: 1}
    assert engines["int8"]["placed_on_device"]["warnings"] == []
    assert "placed_on_device" not in engines["fp32"]
    assert "W-ENGINE" not in {warning["code"] for warning in document["warnings"]}


def test_compute_elsewhere_is_a_loud_warning(synthetic: Make, unseen: list[Entrant]) -> None:
    """It is measured, and the counts stand in the document and in the warning."""
    answer = counted(npu={"Conv": 1}, cpu={"Conv": 1, "Relu": 1})
    document = run_campaign(unseen, npu(synthetic, answer), QUICK)
    placed = document["engines"]["int8"]["placed_on_device"]
    assert (placed["nodes"], placed["compute"]) == ({CPU: 2, NPU: 1}, {CPU: 1, NPU: 1})
    [warning] = [item for item in document["warnings"] if item["code"] == "W-ENGINE"]
    assert warning["engine"] == "int8"
    assert warning["evidence"] == f"1 of 2 convolutions and matrix products do not run on {NPU}: 1 on {CPU}"


@pytest.mark.parametrize(
    "operators",
    [
        {"cpu": {"Conv": 2, "Relu": 1}},
        {"npu": {"Relu": 1, "MemcpyToHost": 1}, "cpu": {"FusedConv": 1}},
        {"npu": {"QNN_part_0": 1}, "cpu": {"Conv": 2}},  # a part was compiled, and nothing that computes is left for it
    ],
    ids=str,
)
def test_an_engine_that_only_falls_back_is_none(
    operators: dict[str, Any], synthetic: Make, unseen: list[Entrant]
) -> None:
    """Where the first provider computes nothing, the engine is left out with the reason; a required one is an error."""
    device = npu(synthetic, counted(**operators))
    document = run_campaign(unseen, device, QUICK, required=())
    assert list(document["results"]) == ["fp32"]
    assert "does not run where it was to" in document["unmeasured"]["int8"]["what"]
    assert f"fell back from {NPU}" in document["unmeasured"]["int8"]["why"]
    with pytest.raises(NotPlacedThere, match="does not run where it was to"):
        run_campaign(unseen, device, QUICK)


def test_a_compiled_part_counts_as_compute(synthetic: Make, unseen: list[Entrant]) -> None:
    """One convolution lies on the CPU and the other in a compiled part: a warning, and no reason to leave it out."""
    document = run_campaign(unseen, npu(synthetic, counted(npu={"QNN_part_0": 1}, cpu={"Conv": 1})), QUICK)
    assert "1 of 2" in document["engines"]["int8"]["placed_on_device"]["warnings"][0]


def test_a_provider_that_is_missing_there_drops_the_engine(synthetic: Make, unseen: list[Entrant]) -> None:
    """The reason is the device's own, and the others are measured."""
    error = {"error": {"what": "this onnxruntime has no QNN", "why": "it has CPU", "fix": "install it"}}
    document = run_campaign(unseen, npu(synthetic, error), QUICK, required=("fp32",))
    assert document["unmeasured"]["int8"]["why"] == "it has CPU"


@pytest.mark.parametrize(
    "spoiled",
    [
        {"operators": {}},
        {"operators": {CPU: {"Conv": -1}}},
        {"operators": {CPU: {"Conv": True}}},
        {"operators": {CPU: []}},
        {"providers": "all"},
        {"providers": [1]},
        {"runtime_version": None},
    ],
    ids=str,
)
def test_a_placement_that_cannot_be_true_is_the_device_s_error(
    spoiled: dict[str, Any], synthetic: Make, unseen: list[Entrant]
) -> None:
    """It is data of a stranger; and no reason to go on without that engine."""
    answer = counted(cpu={"Conv": 2})
    answer["result"] |= spoiled
    with pytest.raises(DeviceError, match="gave no valid answer") as caught:
        run_campaign(unseen, npu(synthetic, answer), QUICK, required=())
    assert not isinstance(caught.value, NotPlacedThere)


@pytest.mark.skipif(
    NOTHING not in onnxruntime.get_available_providers(),
    reason="NOT TESTED: needs an onnxruntime with a provider that takes no node (the wheels of Linux have one)",
)
@pytest.mark.parametrize("providers", [[NOTHING, CPU], [CPU, NOTHING]], ids=["falls back", "as asked"])
def test_the_real_program_sees_a_provider_that_takes_nothing(
    providers: list[str], tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, by the packed program: all on the CPU behind another provider is refused, on it as asked not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    onnx.save(onnx.parser.parse_model(NET), str(tmp_path / "m.onnx"))
    profile = load_profile("host")
    profile = profile.model_copy(update={"engine": OnnxRuntimeOptions(name="onnxruntime"), "alternatives": ()})
    build = engine("onnxruntime").build(tmp_path / "m.onnx", profile, tmp_path / "e", precision="fp32")
    dataclasses.replace(build, options={**build.options, "providers": providers}).write()
    staged = staging.prepare([Entrant(name="fp32", folder=build.folder, samples=samples)], tmp_path)
    with device_named("local").session(wait_s=0) as session:
        if providers[0] == NOTHING:
            with pytest.raises(NotPlacedThere, match="fp32 does not run where it was to") as caught:
                send_engines(staged, session, None)
            assert caught.value.why.endswith(f"fell back from {NOTHING}: 1 on {CPU}")
            return
        [ready], failed = send_engines(staged, session, None)
    assert ready.placed is not None
    assert not failed
    assert (ready.placed.compute, ready.placed.warnings) == ({CPU: 1}, ())
    assert ready.placed.runtime_version == onnxruntime.__version__
    assert staging.describe(ready)["placement"] == ready.placed.nodes
