"""NVIDIA's library through a stand-in with the same functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from targets.ondevice import nvml, sensors, signals
from targets.ondevice.kernelfiles import Tree

if TYPE_CHECKING:
    import pytest

NOT_SUPPORTED = 3


class Driver:
    """Answers as NVML does: a status code, values written through pointers."""

    def __init__(self, numbers: dict[str, int], gpus: int = 1) -> None:
        self._numbers = {"nvmlDeviceGetCount_v2": gpus, **numbers}

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name in {"nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2"}:
            return lambda *_: 0
        if name.endswith(("Name", "DriverVersion")):
            return self._text
        if name in self._numbers:
            return lambda *arguments: self._number(name, arguments)
        if name in {"nvmlDeviceGetEccMode", "nvmlDeviceGetMigMode"}:
            return lambda *_: NOT_SUPPORTED
        raise AttributeError(name)

    def _number(self, name: str, arguments: tuple[Any, ...]) -> int:
        pointer = next(item for item in arguments if hasattr(item, "_obj"))
        pointer._obj.value = self._numbers[name]
        return 0

    @staticmethod
    def _text(*arguments: object) -> int:
        buffer: Any = next(item for item in arguments if hasattr(item, "raw"))
        buffer.value = b"Some GPU"
        return 0


FULL = {
    "nvmlDeviceGetClockInfo": 1500,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1 | 0x4 | 0x40 | 0x100,
    "nvmlDeviceGetTotalEnergyConsumption": 123_456,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetComputeRunningProcesses_v3": 2,
}


def test_units_and_names_are_those_promised() -> None:
    """Megahertz become kilohertz, millijoules microjoules; what the GPU does not support is None."""
    (gpu,) = nvml.open_gpus(Driver(FULL))
    assert nvml.sm_khz(gpu) == 1_500_000
    assert nvml.energy_uj(gpu) == 123_456_000
    facts = nvml.describe(gpu)
    assert (facts["name"], facts["max_sm_khz"], facts["temp_c"]) == ("Some GPU", 1_980_000, 61.0)
    assert (facts["ecc"], facts["mig"], facts["compute_processes"], facts["persistence"]) == (None, None, 2, 1)


def test_only_bits_that_mean_throttling_are_kept() -> None:
    """Idle (0x1) and display clocks (0x100) are no throttling; power cap and thermal slowdown are."""
    (gpu,) = nvml.open_gpus(Driver(FULL))
    assert nvml.throttle_reasons(gpu) == 0x44


def test_an_older_driver_is_asked_by_the_older_name() -> None:
    """Before the rename the call was ...ThrottleReasons; without either there is no answer."""
    (gpu,) = nvml.open_gpus(Driver({"nvmlDeviceGetCurrentClocksThrottleReasons": 0x20}))
    assert nvml.throttle_reasons(gpu) == 0x20
    (gpu,) = nvml.open_gpus(Driver({}))
    assert (nvml.throttle_reasons(gpu), nvml.sm_khz(gpu), nvml.energy_uj(gpu)) == (None, None, None)


def test_a_gpu_that_counts_energy_is_a_sensor_and_throttles_are_named_by_gpu() -> None:
    """Two GPUs make one sensor with two parts; the throttle facts tell them apart."""
    gpus = nvml.open_gpus(Driver(FULL, gpus=2))
    (sensor,), _ = sensors.find_sensors(Tree("/nonexistent"), gpus)
    assert (sensor.name, sensor.grade) == ("NVML energy of GPU 0+1", "C")
    assert sensors.read(Tree("/nonexistent"), sensor) == (123_456_000, 123_456_000)
    found = signals.find("/nonexistent")._replace(gpus=gpus)
    assert signals.throttle(found) == {"gpu0_now": 0x44, "gpu1_now": 0x44}
    assert (signals.gpu_khz(found), signals.temperature_c(found)) == (1_500_000, 61.0)


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library, and one that cannot start, give no GPU and no error; a tree elsewhere asks no driver."""

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert nvml.open_gpus() == []
    assert nvml.open_gpus(object()) == []
    assert not nvml.is_present(Tree("/nonexistent"))
