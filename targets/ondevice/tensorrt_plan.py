"""Whether a TensorRT plan may be opened here: ours, of this version, for this GPU; and opens it, the only place."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from .built import need_built
from .failure import BAD_INPUT, DEVICE, REFUSED, Failure
from .tensorrt_module import MODULES, Vendor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .cuda import Gpu

_OPTIONS = {"device": str, "dla_core": int, "cuda_graph": bool, "version_compatible": bool, "hardware_compatible": bool}
_AMPERE = 8


def check_spec(spec: Mapping[str, Any]) -> None:
    """Refuses an engine.json that is none of ours; nothing is loaded.

    Raises:
        Failure: It is not valid (3), not built yet (3), or not of this program (4).
    """
    need_built(spec)
    if spec.get("runtime") not in MODULES or not isinstance(spec.get("runtime_version"), str):
        raise Failure(
            REFUSED, "this plan is not one of ours", "its engine.json names no TensorRT that built it: a plan is code",
            "open only what `ondevice.pyz build` or edgepress has built",
        )  # fmt: skip
    options = spec["options"] if isinstance(spec.get("options"), dict) else {}
    wrong = sorted(name for name, kind in _OPTIONS.items() if not isinstance(options.get(name), kind))
    if not isinstance(options.get("gpu"), (dict, type(None))):
        wrong.append("gpu")
    if not isinstance(options.get("compute_capabilities"), list):
        wrong.append("compute_capabilities")
    if wrong:
        raise Failure(
            BAD_INPUT, "engine.json is not valid", "its options lack, or have wrong: {}".format(", ".join(wrong)),
            "build the engine again",
        )  # fmt: skip


def read_ours(folder: Path, spec: Mapping[str, Any]) -> bytes:
    """The plan, if it is the one that engine.json describes.

    Raises:
        Failure: It is another one (4).
    """
    data: bytes = (folder / spec["file"]).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != spec["sha256"]:
        raise Failure(
            REFUSED, "the engine file {} is not the one that was built".format(spec["file"]),
            "its sha256 is {}, engine.json says {}; a plan is code".format(found, spec["sha256"]),
            "copy the bundle again, or build the engine again",
        )  # fmt: skip
    return data


def check_version(folder: Path, spec: Mapping[str, Any], vendor: Vendor) -> None:
    """Refuses a plan of another version.

    Raises:
        Failure: The versions differ, and the plan was not built to be loaded by later ones (6).
    """
    built, here = str(spec["runtime_version"]), str(vendor.__version__)
    made, now = _numbers(built), _numbers(here)
    later = made[:1] == now[:1] and now >= made
    if built == here or (spec["options"]["version_compatible"] and later):
        return
    raise Failure(
        DEVICE, "the engine is of another version of TensorRT",
        "it was built with {} {}, here is {} {}".format(spec["runtime"], built, vendor.__name__, here),
        rebuild(folder),
    )  # fmt: skip


def check_gpu(folder: Path, spec: Mapping[str, Any], here: Gpu) -> None:
    """Refuses a plan for another GPU.

    Raises:
        Failure: The GPU is not one that the plan was built for (6).
    """
    options = spec["options"]
    named = [f"{str(name)[2:-1]}.{str(name)[-1:]}" for name in options["compute_capabilities"]]
    if named:
        if here.compute_capability in named:
            return
        built = "compute capability {}".format(" or ".join(named))
    else:
        made = options["gpu"] or {}
        same = (made.get("name"), made.get("compute_capability")) == (here.name, here.compute_capability)
        if same or (options["hardware_compatible"] and _both_ampere(made, here)):
            return
        built = "{} (compute capability {})".format(made.get("name", "?"), made.get("compute_capability", "?"))
    raise Failure(
        DEVICE, "the engine is for another GPU",
        f"it was built for {built}, here is {here.name} (compute capability {here.compute_capability})",
        rebuild(folder),
    )  # fmt: skip


def deserialized(vendor: Vendor, log: Any, data: bytes, options: Mapping[str, Any]) -> tuple[Any, Any]:  # noqa: ANN401
    """TensorRT's runtime and the engine in a plan that is ours; the engine is None where TensorRT refuses the plan.

    Args:
        vendor: The vendor's module.
        log: A logger of it.
        data: The plan: from `read_ours`, or built by this process.
        options: ``device``, ``dla_core`` and ``version_compatible``, as engine.json has them.
    """
    runtime = vendor.Runtime(log)
    if options["device"] == "dla":
        runtime.DLA_core = options["dla_core"]
    if options["version_compatible"] and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # such a plan brings its runtime with it
    return runtime, runtime.deserialize_cuda_engine(data)


def activations_bytes(engine: Any) -> int:  # noqa: ANN401 - the vendor's
    """What one execution context takes; 8.6 has only the older name of it, 11 only the newer one."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def rebuild(folder: Path) -> str:
    """How to get an engine that fits."""
    source = folder.parent if folder.name == "built" else folder
    if (source / "build.json").is_file():
        return f"python ondevice.pyz build {source}"
    return "build the engine again with edgepress, for this device"


def _both_ampere(made: Mapping[str, Any], here: Gpu) -> bool:
    majors = [str(value).split(".")[0] for value in (made.get("compute_capability"), here.compute_capability)]
    return all(major.isdigit() and int(major) >= _AMPERE for major in majors)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
