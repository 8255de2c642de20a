"""The module openvino: imported without what it sends, with settings that leave nothing to chance."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from targets.ondevice import openvino_module
from targets.ondevice.failure import BAD_INPUT, DEVICE, REFUSED, Failure

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
OPTIONS = {"device": "CPU", "threads": 2, "precision": "f32", "denormal_as_zero": True}


@needs_openvino
def test_importing_openvino_sends_and_writes_nothing(tmp_path: Path, repository: Path) -> None:
    """No socket is opened, no name looked up, nothing written into the home, and the telemetry package stays out."""
    code = """
import os, socket, sys
asked = []
def refuse(*arguments, **_):
    asked.append(arguments)
    raise OSError("no network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from targets.ondevice.openvino_module import import_openvino
openvino = import_openvino()
core = openvino.Core()
core.available_devices
loaded = sorted(name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools")))
assert loaded == ["openvino_telemetry"] and sys.modules["openvino_telemetry"] is None, loaded
import threading
assert threading.active_count() == 1, threading.enumerate()
assert asked == [], asked
"""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(repository), "TMPDIR": str(tmp_path / "t")}
    (tmp_path / "t").mkdir()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert [path.name for path in tmp_path.rglob("*")] == ["t"]


def test_a_missing_openvino_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the failure is the device's, and names the command that installs it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Failure) as caught:
        openvino_module.import_openvino()
    assert caught.value.exit_code == DEVICE
    assert "pip install numpy openvino" in caught.value.fix


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (None, "denormal_as_zero, device, precision, threads"),
        ({**OPTIONS, "threads": "2"}, "threads"),
        ({**OPTIONS, "device": "cpu"}, "device"),
        ({**OPTIONS, "precision": "i8"}, "precision"),
    ],
)
def test_wrong_options_are_named(options: object, named: str) -> None:
    """Options of an engine.json that are missing or wrong are bad input, and all are named."""
    with pytest.raises(Failure) as caught:
        openvino_module.check_options(options)
    assert (caught.value.exit_code, caught.value.why.split(": ")[1]) == (BAD_INPUT, named)
    openvino_module.check_options(OPTIONS)


def test_precision_and_threads_are_never_left_to_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """The precision is always said, each stream has its threads, pinning is off, and no folder is written unasked."""
    monkeypatch.delenv(openvino_module.CACHE_VARIABLE, raising=False)
    found = openvino_module.settings(OPTIONS, streams=3)
    assert found["INFERENCE_PRECISION_HINT"] == "f32"
    assert (found["NUM_STREAMS"], found["INFERENCE_NUM_THREADS"]) == ("3", 6)
    assert (found["ENABLE_CPU_PINNING"], found["DYNAMIC_QUANTIZATION_GROUP_SIZE"]) == (False, 0)
    assert "CACHE_DIR" not in found
    npu = openvino_module.settings({**OPTIONS, "device": "NPU", "precision": "f16"})
    assert npu == {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"}


@needs_openvino
def test_every_setting_is_taken_by_the_cpu_plugin() -> None:
    """The installed OpenVINO knows every property that is set, so that none is silently without effect."""
    core = openvino_module.import_openvino().Core()
    known = core.get_property("CPU", "SUPPORTED_PROPERTIES")
    assert {name: known.get(name) for name in openvino_module.settings(OPTIONS)} == dict.fromkeys(
        openvino_module.settings(OPTIONS), "RW"
    )


def test_the_folder_of_compiled_models_must_be_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there is run: it is made for its owner only, and one that others may write or a link is refused."""
    monkeypatch.setenv(openvino_module.CACHE_VARIABLE, str(tmp_path / "a" / "b"))
    assert openvino_module.settings(OPTIONS)["CACHE_DIR"] == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    for name in ("open", "link"):
        monkeypatch.setenv(openvino_module.CACHE_VARIABLE, str(tmp_path / name))
        with pytest.raises(Failure) as caught:
            openvino_module.settings(OPTIONS)
        assert caught.value.exit_code == REFUSED


class FakeCore:
    """A core with one GPU of two, whose other plugins cannot be loaded."""

    available_devices = ("GPU.0", "GPU.1")

    def __init__(self, why: str) -> None:
        self._why = why

    def get_property(self, device: str, _name: str) -> str:
        if device.startswith("GPU"):
            return f"the {device}"
        raise RuntimeError(f"Exception from src/a.cpp:1:\n{self._why}\n")


class FakeModule:
    """As much of the module as its version."""

    __version__ = "2026.4.1-22982-abc"


@needs_openvino
def test_a_missing_device_says_what_is_there_and_why() -> None:
    """A plugin that cannot be loaded is the device's failure with OpenVINO's reason; too little memory is just that."""
    core: Any = FakeCore("Cannot load library libOpenCL.so.1")
    openvino_module.require_device(FakeModule, core, "GPU")
    with pytest.raises(Failure) as caught:
        openvino_module.require_device(FakeModule, core, "CPU")
    assert caught.value.why == "openvino 2026.4.1 finds GPU.0, GPU.1 here; Cannot load library libOpenCL.so.1"
    with pytest.raises(MemoryError):
        openvino_module.require_device(FakeModule, FakeCore("failed to map segment: Cannot allocate memory"), "CPU")
    assert openvino_module.plugins(core) == {"GPU.0": "the GPU.0", "GPU.1": "the GPU.1"}


def test_messages_leave_out_places_in_the_source() -> None:
    """Of a nested fault only what it says is kept, on one line and at most 500 characters."""
    error = RuntimeError(
        "Exception from src/core.cpp:84:\nException from src/b.cpp:2:\n  Check 'x' failed\n\n  bad shape\n"
    )
    assert openvino_module.message(error) == "Check 'x' failed bad shape"
    assert len(openvino_module.message(RuntimeError("a" * 900))) == 500
