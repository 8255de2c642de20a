"""NVIDIA GPUs through the driver's own library (NVML), by ctypes; nothing to install, None where there is no driver."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from .kernelfiles import Tree

_SM, _MEMORY = 1, 2  # nvmlClockType_t
# What slows a GPU down against its will, from nvml.h: software power cap, hardware slowdown, software thermal,
# hardware thermal, power brake.
THROTTLE_BITS = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_TEXT_BYTES = 96


class Gpu(NamedTuple):
    """One GPU of an open library; ``number`` is its place in the driver's list."""

    number: int
    handle: Any
    library: Any


def is_present(tree: Tree) -> bool:
    """Whether an NVIDIA driver runs on this very machine (a tree elsewhere has no driver to ask)."""
    return tree.root == "/" and tree.exists("/dev/nvidiactl")


def open_gpus(library: Any = None) -> list[Gpu]:  # noqa: ANN401 - ctypes has no type for it
    """The GPUs that the driver lists; empty without a driver.

    Args:
        library: Another library with NVML's functions; None loads ``libnvidia-ml.so.1``.
    """
    if library is None:
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return []
    count = ctypes.c_uint()
    if _call(library, "nvmlInit_v2") is None or _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count)) is None:
        return []
    gpus = []
    for index in range(min(count.value, 64)):
        handle = ctypes.c_void_p()
        if _call(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle)) is not None:
            gpus.append(Gpu(index, handle, library))
    return gpus


def sm_khz(gpu: Gpu) -> int | None:
    """Clock of the streaming multiprocessors."""
    return _khz(gpu, "nvmlDeviceGetClockInfo", _SM)


def throttle_reasons(gpu: Gpu) -> int | None:
    """Bits of nvmlClocksEventReasons that mean throttling; the call has an older name in older drivers."""
    bits = _number(gpu, "nvmlDeviceGetCurrentClocksEventReasons", ctypes.c_ulonglong())
    if bits is None:
        bits = _number(gpu, "nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
    return None if bits is None else bits & THROTTLE_BITS


def energy_uj(gpu: Gpu) -> int | None:
    """Energy since the driver was loaded, in microjoules (the counter counts millijoules)."""
    millijoules = _number(gpu, "nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
    return None if millijoules is None else millijoules * 1000


def temperature_c(gpu: Gpu) -> float | None:
    """Temperature of the GPU die."""
    value = ctypes.c_uint()
    done = _call(gpu.library, "nvmlDeviceGetTemperature", gpu.handle, ctypes.c_uint(0), ctypes.byref(value))
    return None if done is None else float(value.value)


def describe(gpu: Gpu) -> dict[str, Any]:
    """Name, clocks in kHz and settings that change what a measurement means; None where the GPU does not tell."""
    return {
        "index": gpu.number,
        "name": _text(gpu, "nvmlDeviceGetName"),
        "driver": _driver(gpu),
        "sm_khz": sm_khz(gpu),
        "memory_khz": _khz(gpu, "nvmlDeviceGetClockInfo", _MEMORY),
        "max_sm_khz": _khz(gpu, "nvmlDeviceGetMaxClockInfo", _SM),
        "temp_c": temperature_c(gpu),
        "pcie_generation": _number(gpu, "nvmlDeviceGetCurrPcieLinkGeneration", ctypes.c_uint()),
        "persistence": _number(gpu, "nvmlDeviceGetPersistenceMode", ctypes.c_uint()),
        "ecc": _mode(gpu, "nvmlDeviceGetEccMode"),
        "mig": _mode(gpu, "nvmlDeviceGetMigMode"),
        "compute_processes": _process_count(gpu),
    }


def _call(library: Any, name: str, *arguments: Any) -> bool | None:  # noqa: ANN401 - as ctypes
    """True when the function exists and returns NVML_SUCCESS, else None."""
    function = getattr(library, name, None)
    return True if function is not None and function(*arguments) == 0 else None


def _number(gpu: Gpu, name: str, value: Any) -> int | None:  # noqa: ANN401 - a ctypes integer
    return None if _call(gpu.library, name, gpu.handle, ctypes.byref(value)) is None else int(value.value)


def _khz(gpu: Gpu, name: str, clock: int) -> int | None:
    megahertz = ctypes.c_uint()
    done = _call(gpu.library, name, gpu.handle, ctypes.c_uint(clock), ctypes.byref(megahertz))
    return None if done is None else megahertz.value * 1000


def _mode(gpu: Gpu, name: str) -> int | None:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    done = _call(gpu.library, name, gpu.handle, ctypes.byref(current), ctypes.byref(pending))
    return None if done is None else current.value


def _process_count(gpu: Gpu) -> int | None:
    """Processes that compute on the GPU; asked with room for none, NVML answers INSUFFICIENT_SIZE (7) and the count."""
    function = getattr(gpu.library, "nvmlDeviceGetComputeRunningProcesses_v3", None)
    if function is None:
        return None
    count = ctypes.c_uint(0)
    code = function(gpu.handle, ctypes.byref(count), None)
    return count.value if code in {0, 7} else None


def _text(gpu: Gpu, name: str) -> str | None:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    done = _call(gpu.library, name, gpu.handle, buffer, ctypes.c_uint(_TEXT_BYTES))
    return None if done is None else buffer.value.decode("utf-8", "replace")


def _driver(gpu: Gpu) -> str | None:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    done = _call(gpu.library, "nvmlSystemGetDriverVersion", buffer, ctypes.c_uint(_TEXT_BYTES))
    return None if done is None else buffer.value.decode("utf-8", "replace")
