"""Which device is measured, and whether it can stand in for the target."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.measuredon import device_name, measured_on
from pipeline.recipe import BenchmarkSection
from targets import machine
from targets.devices.base import DeviceFacts
from targets.errors import DeviceError, InputError
from targets.options import OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.profile import Alternative, DeviceSection, Quantization, TargetProfile, load_profile

FOREIGN = "x86-64-vnni" if machine.arch() == "aarch64" else "raspberry-pi-5"


def facts(profile: TargetProfile, **raw: Any) -> DeviceFacts:  # noqa: ANN401
    return DeviceFacts(
        fingerprint=raw.pop("fingerprint", "f1"),
        arch=raw.pop("arch", profile.hardware.arch),
        cpu_model="A CPU",
        cores=4,
        mem_total_bytes=None,
        virtualised=None,
        governor=None,
        runtime_version=raw.pop("runtime", "1.2"),
        boot_id=None,
        emulated=None,
        raw=raw,
        wall_s=0.1,
    )


def test_the_recipe_s_device_wins_over_the_profile_s() -> None:
    """And the profile's counts where the recipe names none."""
    profile = load_profile("host").model_copy(update={"device": DeviceSection(name="bench")})
    assert device_name(BenchmarkSection(device="pi4"), profile) == "pi4"
    assert device_name(BenchmarkSection(), profile) == "bench"


def test_this_machine_is_not_asked() -> None:
    """A cached run starts no process: what this machine is, the kernel says."""
    found = measured_on("local", load_profile("host"), ask=lambda _: pytest.fail("asked"))
    assert found.name == "local"
    assert found.fingerprint == machine.fingerprint()


def test_a_foreign_target_is_measured_on_a_device_that_fits() -> None:
    """Its own facts are the key: another system or runtime there is another measurement."""
    profile = load_profile(FOREIGN)
    told = {"cpu_features": [*profile.hardware.isa, "more"]}
    first = measured_on("pi5", profile, ask=lambda _: facts(profile, **told))
    assert first.name == "pi5"
    assert first != measured_on("pi5", profile, ask=lambda _: facts(profile, fingerprint="f2", **told))
    assert first != measured_on("pi5", profile, ask=lambda _: facts(profile, runtime="1.3", **told))


@pytest.mark.parametrize("raw", [{"arch": "riscv64"}, {"cpu_features": ["asimd"]}, {"isa": ["avx2"]}])
def test_a_device_that_lacks_something_is_refused_before_any_work(raw: dict[str, Any]) -> None:
    """The error says what it lacks."""
    profile = load_profile(FOREIGN)
    with pytest.raises(DeviceError, match="cannot stand in for target") as caught:
        measured_on("pi4", profile, ask=lambda _: facts(profile, **raw))
    assert caught.value.exit_code == 6


def test_features_that_nobody_tells_are_not_held_against_a_device() -> None:
    """The runtime there has the last word."""
    profile = load_profile(FOREIGN)
    assert measured_on("pi5", profile, ask=lambda _: facts(profile)).name == "pi5"


def test_an_unknown_device_is_bad_input(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """Exit 3, not silently this machine."""
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(tmp_path))
    with pytest.raises(InputError, match="nosuch"):
        measured_on("nosuch", load_profile("host"))


def gpu(profile: TargetProfile, *names: str) -> TargetProfile:
    """The profile with other engines."""
    engines = {
        "openvino": OpenVinoOptions(name="openvino"),
        "tensorrt": TensorRtOptions(name="tensorrt"),
        "onnxruntime": OnnxRuntimeOptions(name="onnxruntime"),
    }
    wants = Quantization(scheme="trt")
    others = tuple(Alternative(engine=engines[name], quantization=wants) for name in names[1:])
    return profile.model_copy(update={"engine": engines[names[0]], "quantization": wants, "alternatives": others})


def test_a_target_of_which_no_engine_runs_here_is_not_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right CPU is not enough: the error says what is missing, of each engine, before any work."""
    here = load_profile("host")
    monkeypatch.setattr("pipeline.stages.answers.runs_here", lambda profile: f"no {profile.engine.name} here")
    with pytest.raises(DeviceError, match="no engine of target") as caught:
        measured_on("local", gpu(here, "tensorrt", "openvino"))
    assert caught.value.why == "tensorrt: no tensorrt here; openvino: no openvino here"
    assert measured_on("local", gpu(here, "tensorrt", "onnxruntime")).name == "local"


def test_with_one_engine_that_runs_here_it_is_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are left out later, by name."""
    monkeypatch.setattr("pipeline.stages.answers.runs_here", lambda p: "" if p.engine.name == "openvino" else "no")
    assert measured_on("local", gpu(load_profile("host"), "tensorrt", "openvino")).name == "local"


def test_a_device_without_any_of_the_runtimes_is_refused() -> None:
    """One of them is enough; what a device does not tell of is not held against it."""
    profile = gpu(load_profile(FOREIGN), "tensorrt", "openvino")
    with pytest.raises(DeviceError, match="need one of: tensorrt, openvino"):
        measured_on("board", profile, ask=lambda _: facts(profile, tensorrt=None, openvino=None))
    found = measured_on("board", profile, ask=lambda _: facts(profile, tensorrt="10.3.0", openvino=None))
    assert found.fingerprint.endswith("/ tensorrt 10.3.0")
    assert measured_on("board", profile, ask=lambda _: facts(profile)).name == "board"
