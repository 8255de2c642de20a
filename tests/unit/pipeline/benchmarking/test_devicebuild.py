"""Engines that the device itself builds: sent, built, judged, and only then measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign
from pipeline.benchmarking.devicebuild import NotBuiltThere, put_engine
from targets.devices.held import HeldDevice
from targets.engines.base import EngineBuild, Inspection
from targets.errors import DeviceError, DeviceLost
from targets.files import sha256_file

Make = Any  # the fixture that makes a synthetic device
PLAN = "a" * 64
QUICK = CampaignOptions(budget_s=6, mode="quick")
INSPECTION = Inspection(
    engine="tensorrt", scope="on the device", requested_precision="int8", actual_precision="int8", nodes={"conv": 3},
    int8_nodes={"conv": 3}, providers={"gpu": 3}, int8_node_ratio=1.0,
    compute={"total": 3, "int8": 3, "macs": 9, "int8_macs": 9}, precisions={"int8": 3}, int8_mac_ratio=1.0,
    float_compute=(), weights_bytes=1, subnormal_weights=0,
)  # fmt: skip


def answer(**changes: object) -> dict[str, Any]:
    inspection = dataclasses.asdict(dataclasses.replace(INSPECTION, **changes))  # type: ignore[arg-type]
    found = {"sha256": PLAN, "bytes": 99, "build_ns": 2_000_000_000, "version": "10.3.0", "inspection": inspection}
    return {"result": found}


@pytest.fixture
def to_build(entrants: list[Entrant]) -> list[Entrant]:
    """The second engine is to be built on the device."""
    build = EngineBuild.read(entrants[1].folder)
    (build.folder / "build.json").write_text("{}", encoding="utf-8")
    dataclasses.replace(
        build, engine="tensorrt", runtime="tensorrt", precision="int8", build_on_device=True, model=build.file,
        files={"build.json": sha256_file(build.folder / "build.json")},
    ).write()  # fmt: skip
    return entrants


def board(synthetic: Make, entrants: list[Entrant], answers: dict[str, Any]) -> Any:  # noqa: ANN401
    device = synthetic()
    device.names = {EngineBuild.read(entrants[0].folder).sha256: "fp32", PLAN: "int8"}
    device.builds = {"engines/1": answers}
    return device


def test_the_device_builds_before_it_measures(synthetic: Make, to_build: list[Entrant]) -> None:
    """Everything the build needs is there; rows are of the engine that was built; the document holds what it is."""
    device = board(synthetic, to_build, answer())
    order: list[str] = []
    device.before = lambda command: order.append(command[0])
    document = run_campaign(to_build, device, QUICK)
    assert {"engines/1/engine.json", "engines/1/engine.onnx", "engines/1/build.json"} <= device.files
    assert order[0] == "build"
    built = document["engines"]["int8"]["built_on_device"]
    assert (built["sha256"], built["build_s"], built["warnings"]) == (PLAN, 2.0, [])
    assert document["engines"]["int8"]["sha256"] == PLAN
    assert document["engines"]["int8"]["runtime_version"] == "10.3.0"
    assert "built_on_device" not in document["engines"]["fp32"]
    assert "unmeasured" not in document


def test_another_precision_than_asked_is_an_error_there_too(synthetic: Make, to_build: list[Entrant]) -> None:
    """A silent fp32 engine is none: it is not measured."""
    silent = answer(
        precisions={"fp32": 3}, actual_precision="fp32", compute={"total": 3, "int8": 0, "macs": 9, "int8_macs": 0}
    )
    device = board(synthetic, to_build, silent)
    with pytest.raises(NotBuiltThere, match=r"not what was asked for: .* was to run in int8, and nothing does"):
        run_campaign(to_build, device, QUICK)
    document = run_campaign(to_build, device, QUICK, required=())
    assert list(document["results"]) == ["fp32"]
    assert "was to run in int8" in document["unmeasured"]["int8"]["what"]


def test_what_is_partly_another_precision_is_a_loud_warning(synthetic: Make, to_build: list[Entrant]) -> None:
    """It is measured, and the warning stands beside it."""
    mixed = answer(precisions={"int8": 2, "fp16": 1}, actual_precision="mixed", reformats=7)
    document = run_campaign(to_build, board(synthetic, to_build, mixed), QUICK)
    warnings = document["engines"]["int8"]["built_on_device"]["warnings"]
    assert any("1 of 3" in line and "fp16" in line for line in warnings)
    assert any("7 nodes only change layouts" in line for line in warnings)


def test_one_that_cannot_be_built_stops_no_other(synthetic: Make, to_build: list[Entrant]) -> None:
    """Unless it is required; the reason is the device's own."""
    failure = {"error": {"what": "TensorRT cannot build the engine", "why": "no kernel", "fix": "quantise otherwise"}}
    device = board(synthetic, to_build, failure)
    document = run_campaign(to_build, device, QUICK, required=("fp32",))
    assert document["unmeasured"]["int8"]["why"] == "no kernel"
    with pytest.raises(DeviceError, match="cannot build"):
        run_campaign(to_build, device, QUICK, required=("int8",))
    device.builds = {"engines/0": failure}
    with pytest.raises(DeviceError, match="cannot build"):  # nothing is left
        run_campaign(to_build[1:], device, QUICK, required=())


@pytest.mark.parametrize(
    "spoiled",
    [
        {"sha256": "short"},
        {"bytes": -1},
        {"build_ns": "1"},
        {"version": None},
        {"inspection": []},
        {"inspection": {"precisions": {"int8": 3}}},
        {"inspection": {**dataclasses.asdict(INSPECTION), "compute": {"total": "three"}}},
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_true_is_the_device_s_error(
    spoiled: dict[str, Any], synthetic: Make, to_build: list[Entrant]
) -> None:
    """It is data of a stranger; and no reason to go on without that engine."""
    given = answer()
    given["result"] |= spoiled
    with pytest.raises(DeviceError, match="gave no valid answer") as caught:
        run_campaign(to_build, board(synthetic, to_build, given), QUICK, required=())
    assert not isinstance(caught.value, NotBuiltThere)


def test_a_device_lost_while_it_builds_is_lost(synthetic: Make, to_build: list[Entrant]) -> None:
    """No candidate is dropped for it."""
    device = board(synthetic, to_build, answer())

    def lose(command: list[str]) -> None:
        if command[0] == "build":
            raise DeviceLost("device was lost", "no answer", "reconnect it")

    device.before = lose
    with pytest.raises(DeviceLost):
        run_campaign(to_build, device, QUICK, required=())


def test_a_changed_file_beside_the_engine_is_refused(synthetic: Make, to_build: list[Entrant]) -> None:
    """Whatever engine.json lists must be what it lists."""
    from targets.errors import RefusedError

    Path(to_build[1].folder / "build.json").write_text("{ }", encoding="utf-8")
    with pytest.raises(RefusedError, match=r"build\.json"):
        run_campaign(to_build, board(synthetic, to_build, answer()), QUICK)


def test_nothing_is_built_twice_in_one_session(synthetic: Make, to_build: list[Entrant]) -> None:
    """Promise: what the device built to be scored is what is measured, and what failed there is not tried again."""
    device = board(synthetic, to_build, answer())
    commands: list[str] = []
    device.before = lambda command: commands.append(command[0])
    build, made = EngineBuild.read(to_build[1].folder), {}  # type: ignore[var-annotated]
    with device.session() as session:
        held = HeldDevice(device, session)
        first = put_engine(build, "engines/1", session, made)
        document = run_campaign(to_build, held, QUICK, made=made)
    assert first is not None
    assert commands.count("build") == 1
    assert document["engines"]["int8"]["built_on_device"]["sha256"] == first.sha256

    failing = board(synthetic, to_build, answer(actual_precision="fp32", precisions={"fp32": 3}))
    failing.before = lambda command: commands.append(f"failing {command[0]}")
    made = {}
    with failing.session() as session:
        for _ in range(2):
            with pytest.raises(NotBuiltThere):
                put_engine(build, "engines/1", session, made)
    assert commands.count("failing build") == 1
