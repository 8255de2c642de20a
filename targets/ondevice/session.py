"""Opens an engine folder in ONNX Runtime, exactly as its engine.json says."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .failure import BAD_INPUT, DEVICE, ENVIRONMENT, REFUSED, Failure
from .providers import check_built_in, check_in_use, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Runtime = Any  # the module onnxruntime
Session = Any  # onnxruntime.InferenceSession: the runtime ships no types
Options = Any  # onnxruntime.SessionOptions

_MAX_SPEC_BYTES = 1 << 20
_LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most 1 MiB.

    Raises:
        Failure: It is missing, too large or no JSON object.
    """
    fix = "give the folder of a bundle or an engine as edgepress wrote it"
    try:
        if path.stat().st_size > _MAX_SPEC_BYTES:
            raise Failure(BAD_INPUT, f"{path.name} is too large", "it is over 1 MiB", fix)
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(BAD_INPUT, f"cannot read {path.name}", str(error), fix) from error
    if not isinstance(value, dict):
        raise Failure(BAD_INPUT, f"{path.name} is no JSON object", "it holds something else", fix)
    return value


def read_spec(folder: Path) -> dict[str, Any]:
    """The engine.json of a folder, with its engine file checked against the hash in it.

    Raises:
        Failure: It is missing or not valid (3), or the engine file is another one (4).
    """
    spec = read_json(folder / "engine.json")
    missing = sorted({"schema", "file", "sha256", "options", "inputs", "outputs"} - set(spec))
    if missing or spec.get("schema") != 1:
        raise Failure(
            BAD_INPUT,
            "engine.json is not valid",
            "it lacks {}".format(", ".join(missing)) if missing else "its schema is {!r}, not 1".format(spec["schema"]),
            "build the engine again",
        )
    if spec.get("engine", "onnxruntime") == "onnxruntime":
        _check_options(spec["options"])
    elif not isinstance(spec["options"], dict):
        raise Failure(BAD_INPUT, "engine.json is not valid", "its options are no object", "build the engine again")
    _check_file(folder, spec["file"], spec["sha256"])
    others = spec.get("files", {})
    if not isinstance(others, dict):
        raise Failure(BAD_INPUT, "engine.json is not valid", "its files are no names and hashes", "build it again")
    for name in sorted(others):
        _check_file(folder, name, others[name])
    return spec


def _check_file(folder: Path, name: object, digest: object) -> None:
    if not isinstance(name, str) or name != os.path.basename(name) or name in {"", ".", ".."}:  # noqa: PTH119
        raise Failure(
            REFUSED, "engine.json names a file outside its folder", repr(name), "use a bundle that edgepress wrote"
        )
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise Failure(BAD_INPUT, f"the engine file {name} is missing", "it is no plain file", "copy it again")
    found = sha256_of(path)
    if found != digest:
        raise Failure(
            REFUSED,
            f"the engine file {name} is not the one that was built",
            f"its sha256 is {found}, engine.json says {digest}",
            "copy the bundle again, or build the engine again",
        )


def _check_options(options: object) -> None:
    wanted = {
        "providers": list,
        "threads": int,
        "allow_spinning": bool,
        "memory_pattern": bool,
        "arena": bool,
        "denormal_as_zero": bool,
        "optimization": str,
        "provider_options": dict,
    }
    given: dict[str, Any] = {"arena": True, "provider_options": {}}
    given.update(options if isinstance(options, dict) else {})
    wrong = sorted(name for name, kind in wanted.items() if not isinstance(given.get(name), kind))
    if not wrong and given["optimization"] not in _LEVELS:
        wrong = ["optimization"]
    if wrong:
        raise Failure(
            BAD_INPUT,
            "engine.json is not valid",
            "its options lack, or have wrong: {}".format(", ".join(wrong)),
            "build the engine again",
        )


def import_runtime() -> Runtime:
    """The onnxruntime module, without its telemetry.

    Raises:
        Failure: It is not installed here (6), or cannot be loaded (5).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise Failure(
            DEVICE,
            "onnxruntime is not installed here",
            str(error),
            "pip install numpy onnxruntime  (or: pip install -r requirements.txt)",
        ) from error
    except ImportError as error:
        raise Failure(
            ENVIRONMENT,
            "onnxruntime cannot be loaded here",
            str(error),
            "free memory or raise the memory limit; else install onnxruntime again",
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions by which ONNX Runtime reports a fault; they have no common base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)


def out_of_memory(error: Exception) -> bool:
    """Whether the runtime failed because memory could not be allocated."""
    text = str(error)
    return any(mark in text for mark in ("bad_alloc", "bad allocation", "Failed to allocate", "Cannot allocate"))


def session_options(runtime: Runtime, options: Mapping[str, Any]) -> Options:
    """Session options as engine.json fixes them; nothing is left to the runtime's defaults that changes results."""
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[options["optimization"]])
    settings.intra_op_num_threads = int(options["threads"])
    settings.inter_op_num_threads = 1
    settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    settings.enable_mem_pattern = bool(options["memory_pattern"])
    settings.enable_cpu_mem_arena = bool(options.get("arena", True))
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options["allow_spinning"] else "0")
    settings.add_session_config_entry("session.set_denormal_as_zero", "1" if options["denormal_as_zero"] else "0")
    return settings


def open_session(
    folder: Path, spec: Mapping[str, Any], configure: Callable[[Options], None] = lambda _: None
) -> Session:
    """An ``InferenceSession`` on the engine of ``folder``.

    Args:
        folder: The engine folder.
        spec: Its engine.json.
        configure: May add to the session options, for example the profiler.

    Raises:
        Failure: The runtime is missing, lacks a provider or refuses the engine (6).
    """
    runtime = import_runtime()
    options = spec["options"]
    settings = session_options(runtime, options)
    configure(settings)
    check_built_in(options["providers"], runtime.get_available_providers())
    try:
        # No fallback of the binding's own: it would retry on the CPU, and say so on stdout only.
        session = runtime.InferenceSession(
            str(folder / spec["file"]), settings, providers=listed(options), enable_fallback=0
        )
    except runtime_errors() as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise Failure(
            DEVICE,
            f"onnxruntime {runtime.__version__} cannot open the engine",
            " ".join(str(error).split())[:500],
            "install onnxruntime=={}, with which it was built".format(spec.get("runtime_version", "?")),
        ) from error
    check_in_use(options["providers"], session.get_providers())
    return session


def one_sample_feeds(arrays: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """One feed of batch size 1 for every sample, contiguous, dtypes and shapes checked.

    Args:
        arrays: Input name to array ``(samples, ...)``.
        spec: The engine.json.

    Raises:
        Failure: Names, dtypes or shapes are not those of the engine, or there is no sample.
    """
    names = [item["name"] for item in spec["inputs"]]
    if sorted(names) != sorted(arrays):
        raise Failure(
            BAD_INPUT,
            "the samples are for another model",
            f"the engine reads {sorted(names)}; the file has {sorted(arrays)}",
            "name the arrays like the engine's inputs",
        )
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or min(counts.values()) == 0:
        raise Failure(
            BAD_INPUT, "the samples do not match each other", f"lengths {counts}", "give equally many of each"
        )
    for item in spec["inputs"]:
        _check_array(item, arrays[item["name"]])
    return [
        {name: np.ascontiguousarray(array[i : i + 1]) for name, array in arrays.items()}
        for i in range(len(arrays[names[0]]))
    ]


def _check_array(item: Mapping[str, Any], array: np.ndarray) -> None:
    wanted = list(item["shape"])
    fits = len(wanted) == array.ndim and all(
        not isinstance(size, int) or size == array.shape[axis] for axis, size in enumerate(wanted) if axis > 0
    )
    if str(array.dtype) != item["dtype"] or not fits:
        raise Failure(
            BAD_INPUT,
            "input {!r} does not fit".format(item["name"]),
            "the engine wants {} {}, the file has {} {}".format(item["dtype"], wanted, array.dtype, list(array.shape)),
            "write the samples as the engine's inputs are",
        )
