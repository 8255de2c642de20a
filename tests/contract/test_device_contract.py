"""The promises every device keeps; one suite, all devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from targets import devices
from targets.engines import engine
from targets.errors import DeviceError, InputError, RefusedError
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

    from targets.devices.base import Device


@pytest.fixture(params=["local"])
def device(request: pytest.FixtureRequest) -> Device:
    return devices.device(request.param)


def test_unknown_kind_is_refused() -> None:
    """A kind of device that is not there is an error, not this machine instead."""
    with pytest.raises(InputError, match="ssh"):
        devices.device("ssh")


def test_facts_are_stable(device: Device) -> None:
    """A device says what it is, with the same fingerprint each time."""
    first, second = device.facts(), device.facts()
    assert first.fingerprint == second.fingerprint != ""
    assert first.arch in {"x86_64", "aarch64"}
    assert first.cores is not None
    assert first.cores >= 1
    assert first.runtime_version


def test_measures_an_engine(device: Device, models: dict[str, Path], samples: np.ndarray, tmp_path: Path) -> None:
    """A measurement comes back complete: ordered percentiles, times and memory that can be true, outputs checked."""
    build = engine("onnxruntime").build(models["fp32"], load_profile("host"), tmp_path / "e", precision="fp32")
    np.savez(tmp_path / "samples.npz", x=samples)
    with engine("onnxruntime").open(build) as runner:
        np.savez(tmp_path / "expected.npz", **{"output.y": runner.infer({"x": samples})["y"]})
    command = [
        "measure",
        "e",
        "--samples",
        "samples.npz",
        "--engine-sha256",
        build.sha256,
        "--expected",
        "expected.npz",
    ]
    lengths = ["--warmup-s", "0.02", "--min-s", "0.05", "--min-iterations", "20"]
    run = device.run(tmp_path, [*command, *lengths], timeout_s=60).result
    ordered = [run[key] for key in ("min_ns", "median_ns", "p90_ns", "p95_ns", "p99_ns", "max_ns")]
    assert ordered == sorted(ordered)
    assert run["min_ns"] > 0
    assert run["n"] == len(run["raw"]) >= 20
    assert sum(run["raw"]) == run["samples_sum_ns"] <= run["loop_wall_ns"]
    assert run["warmup_n"] >= 10
    assert run["load_ns"] > 0
    assert run["first_ns"] > 0
    assert run["outputs_ok"] is True
    assert run["mem"]["base_rss"] > 10 << 20
    assert run["mem"]["steady_uss"] <= run["mem"]["steady_pss"]


def test_another_engine_is_refused(
    device: Device, models: dict[str, Path], samples: np.ndarray, tmp_path: Path
) -> None:
    """Asked to measure one engine, a device does not measure another; the refusal crosses the border as such."""
    engine("onnxruntime").build(models["fp32"], load_profile("host"), tmp_path / "e", precision="fp32")
    np.savez(tmp_path / "samples.npz", x=samples)
    with pytest.raises(RefusedError, match="not the engine"):
        device.run(tmp_path, ["measure", "e", "--samples", "samples.npz", "--engine-sha256", "0" * 64], timeout_s=60)


def test_missing_samples_are_an_input_error(device: Device, models: dict[str, Path], tmp_path: Path) -> None:
    """A fault in what was given keeps its class across the border, with the file's name."""
    engine("onnxruntime").build(models["fp32"], load_profile("host"), tmp_path / "e", precision="fp32")
    with pytest.raises(InputError, match=r"nothing\.npz"):
        device.run(tmp_path, ["measure", "e", "--samples", "nothing.npz"], timeout_s=60)


def test_a_device_that_does_not_end_is_left(device: Device) -> None:
    """A device that does not answer in time is an error of the device."""
    with pytest.raises(DeviceError):
        device.run(None, ["facts"], timeout_s=0.01)
