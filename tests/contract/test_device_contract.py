"""The promises every device keeps; one suite, all devices."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from targets import devices
from targets.devices.remote import RemoteDevice
from targets.engines import engine
from targets.errors import DeviceError, InputError, RefusedError
from targets.profile import load_profile

if TYPE_CHECKING:
    from targets.devices.base import Device


@pytest.fixture(params=["local", "folder"])
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Device:
    """This machine, and a remote device whose wire is a folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
    if request.param == "local":
        return devices.device("local")
    path = Path(__file__).parents[1] / "unit/targets/devices/folder_transport.py"
    spec = importlib.util.spec_from_file_location("folder_transport", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "folder_transport", module)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("device")
    return RemoteDevice("folder", lambda: module.FolderTransport(root), kind="folder", python=sys.executable)


@pytest.fixture
def built(models: dict[str, Path], samples: np.ndarray, tmp_path: Path) -> Path:
    """A folder with an engine ``e``, ``samples.npz`` and ``expected.npz``."""
    folder = tmp_path / "built"
    folder.mkdir()
    build = engine("onnxruntime").build(models["fp32"], load_profile("host"), folder / "e", precision="fp32")
    np.savez(folder / "samples.npz", x=samples)
    with engine("onnxruntime").open(build) as runner:
        np.savez(folder / "expected.npz", **{"output.y": runner.infer({"x": samples})["y"]})
    return folder


def test_unknown_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not registered is an error that names the near ones, not this machine instead."""
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(tmp_path))
    with pytest.raises(InputError, match="locl") as caught:
        devices.device("locl")
    assert "'local'" in caught.value.why


def test_facts_are_stable(device: Device) -> None:
    """A device says what it is, with the same fingerprint each time, with and without the lock."""
    first = device.facts()
    with device.session() as session:
        second = session.facts()
    assert first.fingerprint == second.fingerprint != ""
    assert first.arch in {"x86_64", "aarch64"}
    assert first.cores is not None
    assert first.cores >= 1
    assert first.runtime_version


def test_measures_an_engine(device: Device, built: Path) -> None:
    """A measurement comes back complete: ordered percentiles, times and memory that can be true, outputs checked."""
    command = ["measure", "e", "--samples", "samples.npz", "--expected", "expected.npz"]
    lengths = ["--warmup-s", "0.02", "--min-s", "0.05", "--min-iterations", "20"]
    with device.session() as session:
        for name in ("e", "samples.npz", "expected.npz"):
            session.put(built / name, name)
        run = session.run([*command, *lengths], timeout_s=60).result
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


def test_arrays_come_back(device: Device, built: Path, tmp_path: Path) -> None:
    """The outputs of an inference there are the outputs of one here, fetched to exactly the place asked for."""
    with device.session() as session:
        session.put(built, "things")
        command = ["infer", "things/e", "--inputs", "things/samples.npz", "--out", "result.npz"]
        answer = session.run(command, timeout_s=60, fetch=tmp_path / "got.npz")
    assert answer.result["samples"] == 5
    with np.load(tmp_path / "got.npz") as got, np.load(built / "expected.npz") as expected:
        np.testing.assert_allclose(got["y"], expected["output.y"], rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_another_engine_is_refused(device: Device, built: Path) -> None:
    """Asked to measure one engine, a device does not measure another; the refusal crosses the border as such."""
    with device.session() as session:
        session.put(built, "b")
        with pytest.raises(RefusedError, match="not the engine"):
            session.run(["measure", "b/e", "--samples", "b/samples.npz", "--engine-sha256", "0" * 64], timeout_s=60)


def test_missing_samples_are_an_input_error(device: Device, built: Path) -> None:
    """A fault in what was given keeps its class across the border, with the file's name."""
    with device.session() as session:
        session.put(built / "e", "e")
        with pytest.raises(InputError, match=r"nothing\.npz"):
            session.run(["measure", "e", "--samples", "nothing.npz"], timeout_s=60)


def test_a_program_that_does_not_end_is_ended(device: Device, built: Path) -> None:
    """A command over its time is an error of the device, and the next command of the session works."""
    with device.session() as session:
        with pytest.raises(DeviceError):
            session.run(["sentinel"], timeout_s=0.02)
        assert session.facts().fingerprint


def test_one_user_at_a_time(device: Device) -> None:
    """While one uses a device, the next one waits, and is told who it is that uses it."""
    with device.session(), pytest.raises(DeviceError, match="in use") as caught, device.session(wait_s=0.1):
        pass
    assert "process" in caught.value.why
    with device.session(wait_s=0.1) as session:
        assert session.facts().fingerprint


def test_a_session_starts_empty(device: Device, built: Path) -> None:
    """Files of one session are not there in the next."""
    with device.session() as session:
        session.put(built, "b")
    with device.session() as session, pytest.raises(InputError):
        session.run(["measure", "b/e", "--samples", "b/samples.npz"], timeout_s=60)


@pytest.mark.parametrize(
    "name", ["../up", "/etc/x", "", ".hidden", "a b", "a/../b", "a;reboot;", "$(x)", "-x/..", "a//b"]
)
def test_odd_names_are_not_sent(device: Device, built: Path, name: str) -> None:
    """A name that leaves the working folder, or that a shell could read, is refused before anything is sent."""
    with device.session() as session, pytest.raises(InputError, match="cannot send"):
        session.put(built / "samples.npz", name)


def test_a_missing_source_is_named(device: Device, tmp_path: Path) -> None:
    """What is not there cannot be sent, and the error says what it was."""
    with device.session() as session, pytest.raises(InputError, match="absent"):
        session.put(tmp_path / "absent", "absent")
