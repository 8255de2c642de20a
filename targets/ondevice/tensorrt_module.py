"""The vendor's TensorRT module on this device, whichever it is, and what can be known of it without running it."""

from __future__ import annotations

import ctypes
from typing import Any

from .failure import DEVICE, Failure

Vendor = Any  # the module tensorrt or tensorrt_rtx: they ship no types that hold across versions
RTX = "tensorrt_rtx"
MODULES = ("tensorrt", RTX)
_FIX = "on a Jetson: sudo apt install python3-libnvinfer; elsewhere: pip install tensorrt (or tensorrt-rtx)"
_MAX_LINES = 200


def import_vendor(only: str = "") -> Vendor:
    """``tensorrt``, else ``tensorrt_rtx``.

    TensorRT proper ends the whole process when it is used where no driver answers, so the driver is asked first.

    Args:
        only: The one module that will do; empty: either.

    Raises:
        Failure: It is not installed here, or ``tensorrt`` has no GPU to work with (6).
    """
    reasons = []
    for name in MODULES:
        if only not in {"", name}:
            continue
        try:
            module = __import__(name)
        except (ImportError, OSError) as error:
            reasons.append("{}: {}".format(name, " ".join(str(error).split())[:200]))
            continue
        if name == "tensorrt" and not driver_answers():
            raise Failure(
                DEVICE,
                "TensorRT cannot work here",
                "no NVIDIA driver answers (cuInit of libcuda.so.1)",
                "build on the device that has the GPU, as a user who may use it",
            )
        return module
    raise Failure(DEVICE, "TensorRT is not installed here", "; ".join(reasons), _FIX)


def driver_answers() -> bool:
    """Whether an NVIDIA driver is there and can be initialised."""
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except (OSError, AttributeError):
        return False


def logger(vendor: Vendor, lines: list[str]) -> Any:  # noqa: ANN401 - a class of the vendor
    """A logger of the vendor's that keeps warnings and errors in ``lines``: the last 200, in one line each."""

    class Collector(vendor.ILogger):  # type: ignore[misc]  # the base is known only at run time
        def __init__(self) -> None:
            vendor.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if int(severity) <= int(vendor.ILogger.Severity.WARNING):
                lines.append("{}: {}".format(str(severity).split(".")[-1], " ".join(message.split())[:300]))
                del lines[:-_MAX_LINES]

    return Collector()


def last_line(lines: list[str]) -> str:
    """The last error that TensorRT logged, else its last warning."""
    errors = [line for line in lines if "ERROR" in line.split(":", 1)[0]]
    return (errors or lines or ["it gave no reason"])[-1][:500]
