"""The module openvino on this device: imported without what it sends home, its errors, its plugins, its settings."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from .failure import BAD_INPUT, DEVICE, ENVIRONMENT, REFUSED, Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OpenVino = Any  # the module openvino
Core = Any  # openvino.Core: what the package says of types does not hold across its versions
CACHE_VARIABLE = "EDGEPRESS_OPENVINO_CACHE"
PRECISIONS = ("f32", "f16", "bf16")
DEVICES = ("CPU", "GPU", "NPU")
_INSTALL = "pip install numpy openvino  (or: pip install -r requirements.txt)"
MEMORY_MARKS = ("out of memory", "could not allocate", "cannot allocate", "failed to map", "bad_alloc")
_SENDS = ("openvino_telemetry", "openvino.tools")
_OPTIONS = {"device": str, "threads": int, "precision": str, "denormal_as_zero": bool}


def import_openvino() -> OpenVino:
    """The module openvino.

    On import it imports its model converter, and that reports each import to an analytics server and writes an
    identity of the user into the home folder (seen with 2026.4 and openvino-telemetry 2025.2; no variable turns it
    off). Neither of the two packages is let in; reading, compiling and running models need none of them.

    Raises:
        Failure: It is not installed here (6), or cannot be loaded (5).
    """
    if "openvino" not in sys.modules:
        for name in _SENDS:
            if name not in sys.modules:
                sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say: not to be imported
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise Failure(DEVICE, "openvino is not installed here", str(error), _INSTALL) from error
    except ImportError as error:
        raise Failure(
            ENVIRONMENT,
            "openvino cannot be loaded here",
            " ".join(str(error).split())[:500],
            "free memory or raise the memory limit; else install openvino again",
        ) from error
    finally:
        if sys.modules.get("openvino.tools", ...) is None:
            del sys.modules["openvino.tools"]  # whoever needs the converter may have it; it stays without telemetry
    return openvino


def openvino_errors() -> tuple[type[Exception], ...]:
    """The exceptions by which OpenVINO reports a fault; they have no common base but Exception."""
    from openvino import exceptions, frontend

    own = [value for value in vars(frontend).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, exceptions.OVError, RuntimeError, ValueError)


def short_version(runtime: OpenVino) -> str:
    """``2026.4.1`` of ``2026.4.1-22982-e213a147257-releases/2026/4``."""
    return str(runtime.__version__).split("-", 1)[0]


def message(error: Exception) -> str:
    """What OpenVINO says, without the places in its source where it passed by."""
    lines = [line.strip() for line in str(error).split("\n")]
    return " ".join(line for line in lines if line and not line.startswith("Exception from "))[:500]


def plugins(core: Core) -> dict[str, str]:
    """Full names of the devices whose plugin works here, by the plugin's name."""
    return {str(name): str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}


def has_device(there: Iterable[str], device: str) -> bool:
    """Whether one of these names is that device, or one of several of its kind (``GPU.0``)."""
    return any(name.split(".")[0] == device for name in there)


def require_device(runtime: OpenVino, core: Core, device: str) -> None:
    """Checks that a plugin works here.

    Raises:
        Failure: It does not (6).
        MemoryError: There is too little memory to load it.
    """
    there = [str(name) for name in core.available_devices]
    if has_device(there, device):
        return
    why = ""
    try:
        core.get_property(device, "FULL_DEVICE_NAME")
    except openvino_errors() as error:
        why = message(error)
    if any(mark in why.lower() for mark in MEMORY_MARKS):
        raise MemoryError(why)
    raise Failure(
        DEVICE,
        f"this OpenVINO has no {device}",
        "openvino {} finds {} here; {}".format(short_version(runtime), ", ".join(there) or "no device", why)[:500],
        "install the driver of that device, or use the bundle of another target",
    )


def check_options(options: object) -> None:
    """Checks the ``options`` of an engine.json.

    Raises:
        Failure: One is missing or wrong (3).
    """
    given = options if isinstance(options, dict) else {}
    wrong = sorted(name for name, kind in _OPTIONS.items() if not isinstance(given.get(name), kind))
    if not isinstance(given.get("snippets", True), bool):
        wrong.append("snippets")
    if not wrong:
        known = {"device": given["device"] in DEVICES, "precision": given["precision"] in PRECISIONS}
        wrong = [name for name, fits in known.items() if not fits]
    if wrong:
        raise Failure(
            BAD_INPUT,
            "engine.json is not valid",
            "its options lack, or have wrong: {}".format(", ".join(wrong)),
            "build the engine again",
        )


def settings(options: Mapping[str, Any], streams: int = 1) -> dict[str, Any]:
    """Properties for ``compile_model``; nothing is left to OpenVINO's choice that changes results or threads.

    The precision is always said: left alone, OpenVINO computes float models in bf16 where the CPU has AMX. Threads are
    those of the profile on the CPUs that this process may use: pinning is off, since the affinity is set from outside;
    hyper-threading is on, since without it OpenVINO uses fewer threads than it was told wherever it takes two CPUs for
    one core (two threads took 1.7 times the time on such a machine). Activations are never quantised on the fly: where
    weights alone are integers, OpenVINO would otherwise do that too.

    Args:
        options: Of engine.json.
        streams: How many inferences run at the same time, each with the threads that the options say.
    """
    found = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": options["precision"]}
    if options["device"] == "CPU":
        found.update(
            NUM_STREAMS=str(streams),
            INFERENCE_NUM_THREADS=int(options["threads"]) * streams,
            ENABLE_CPU_PINNING=False,
            ENABLE_HYPER_THREADING=True,
            CPU_DENORMALS_OPTIMIZATION=bool(options["denormal_as_zero"]),
            DYNAMIC_QUANTIZATION_GROUP_SIZE=0,
        )
        if options.get("snippets") is False:  # its kernel generator crashes at some graphs; the build knows which
            found["SNIPPETS_MODE"] = "DISABLE"
    folder = os.environ.get(CACHE_VARIABLE, "")
    if folder:
        found["CACHE_DIR"] = _private(folder)
    return found


def _private(folder: str) -> str:
    """The folder for compiled models, made where it is missing: what lies there is run, so nobody else may write it."""
    fix = f"name another folder in {CACHE_VARIABLE}, or leave the variable unset"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        found = os.lstat(folder)
    except OSError as error:
        raise Failure(ENVIRONMENT, f"cannot use {folder} for compiled models", str(error), fix) from error
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    if not stat.S_ISDIR(found.st_mode) or not mine or found.st_mode & 0o022:
        why = "others could put compiled models there, and they would be run"
        raise Failure(REFUSED, f"{folder} is no private folder", why, fix)
    return folder
