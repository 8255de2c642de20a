"""What each command does: reads its options, calls the one module that does the work, imported only then."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .failure import DEVICE, Failure

GOLDEN = "golden.npz"
_RUNTIMES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx", "openvino": "openvino"}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The result of one command.

    Raises:
        Failure: Whatever its module reports, or numpy is missing (6).
    """
    if options.command not in {"facts", "lock", "watch", "build"}:
        _need_numpy()
    result = _COMMANDS[options.command](options)
    if options.sys_root != "/":
        result["sys_root"] = options.sys_root
    return result


def _need_numpy() -> None:
    try:
        import numpy  # noqa: F401, ICN001 - only to say clearly that it is missing
    except ImportError as error:
        raise Failure(DEVICE, "numpy is not installed here", str(error), "pip install numpy onnxruntime") from error


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    from .system import machine_facts

    facts = machine_facts(options.sys_root)
    try:
        import numpy as np

        facts["numpy"] = np.__version__
    except ImportError:
        facts["numpy"] = None
    try:
        import onnxruntime

        facts["onnxruntime"] = onnxruntime.__version__
        facts["providers"] = onnxruntime.get_available_providers()
    except ImportError:
        facts.update(onnxruntime=None, providers=[])
    for key, package in _RUNTIMES.items():
        facts[key] = _version(package)
    facts["openvino_devices"] = _openvino_devices() if facts["openvino"] else {}
    return facts


def _openvino_devices() -> dict[str, str]:
    """Full names of the devices whose plugin works here."""
    from .openvino_module import import_openvino, openvino_errors, plugins

    try:
        return plugins(import_openvino().Core())
    except Failure:
        return {}
    except openvino_errors():
        return {}


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    from .verify import verify_bundle

    result = verify_bundle(_folder(options))
    worst = max(item["worst_error"] for item in result["outputs"].values())
    sys.stderr.write(
        "OK: {} files as listed, {} golden samples reproduced, worst error {:.3g} ({} {})\n".format(
            result["files"], result["samples"], worst, result["runtime"], result["runtime_version"]
        )
    )
    return result


def _infer(options: argparse.Namespace) -> dict[str, Any]:
    from .infer import infer_file

    return infer_file(Path(options.folder), options.inputs, options.out, options.batch)


def _sentinel(options: argparse.Namespace) -> dict[str, Any]:
    from . import sentinel

    return sentinel.run(options.repeats) if options.repeats else sentinel.calibrate()


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from .measure import Conditions, measure_engine
    from .scenarios import Limits, Scenario

    folder = _folder(options)
    limits = Limits(
        warmup_s=options.warmup_s,
        warmup_cap_s=max(10.0, options.warmup_s),
        min_s=options.min_s,
        min_iterations=options.min_iterations,
        cap_s=max(options.cap_s, options.min_s),
    )
    scenario = Scenario(
        kind=options.scenario,
        period_ns=None if options.period_ms is None else round(options.period_ms * 1e6),
        batch=options.batch,
        concurrency=options.concurrency,
        duration_s=options.duration_s,
    )
    conditions = Conditions(
        affinity=options.affinity,
        memory_limit_bytes=None if options.memory_limit_mb is None else options.memory_limit_mb * 1_000_000,
        sentinel=options.sentinel,
        sentinel_repeats=options.sentinel_repeats or 0,
        root=options.sys_root,
    )
    result = measure_engine(
        folder,
        options.samples or str(folder / GOLDEN),
        limits,
        scenario=scenario,
        conditions=conditions,
        engine_sha256=options.engine_sha256,
        expected=options.expected,
    )
    _tell(result)
    return result


def _tell(row: dict[str, Any]) -> None:
    peak = row["mem"]["run_peak"]
    sys.stderr.write(
        "median {:.4g} ms, p90 {:.4g} ms over {} inferences in this one process{}\n".format(
            row["median_ns"] / 1e6,
            row["p90_ns"] / 1e6,
            row["n"] * row["inner_loops"],
            "" if peak is None else f"; peak memory {peak / 1e6:.1f} MB above the interpreter",
        )
    )


def _layers(options: argparse.Namespace) -> dict[str, Any]:
    from .layers import profile_layers

    _pin(options)
    return profile_layers(Path(options.folder), options.samples, options.iterations)


def _placement(options: argparse.Namespace) -> dict[str, Any]:
    from .placement import placement
    from .session import read_spec

    folder = Path(options.folder)
    return placement(folder, read_spec(folder), options.samples)


def _calibrate(options: argparse.Namespace) -> dict[str, Any]:
    from .calibrate import calibrate

    _pin(options)
    return calibrate(Path(options.folder), options.threads, options.sys_root)


def _energy(options: argparse.Namespace) -> dict[str, Any]:
    from .energy import measure_energy

    _pin(options)
    return measure_energy(
        Path(options.folder),
        options.samples,
        windows=options.windows,
        window_s=options.window_s,
        idle_s=options.idle_s,
        period_ms=options.period_ms,
        root=options.sys_root,
    )


def _build(options: argparse.Namespace) -> dict[str, Any]:
    from .build import build_engine

    return build_engine(Path(options.folder))


def _lock(options: argparse.Namespace) -> dict[str, Any]:
    from . import lock

    work = Path(options.work)
    if options.action == "take":
        return lock.take(work, token=options.token, holder=options.holder, lease_s=options.lease_s)
    if options.action == "renew":
        return lock.renew(work, token=options.token, lease_s=options.lease_s)
    return lock.release(work, token=options.token)


def _watch(options: argparse.Namespace) -> dict[str, Any]:
    from .telemetry import watch

    watch(options.sys_root, options.period_s, options.out)
    return {"ok": True}


def _pin(options: argparse.Namespace) -> None:
    from .affinity import pin

    pin(options.affinity, options.sys_root)


def _folder(options: argparse.Namespace) -> Path:
    """The folder asked for, else the one this program lies in; not resolved: a linked program's bundle is refused."""
    return Path(options.folder or os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120


_COMMANDS = {
    "facts": _facts, "verify": _verify, "infer": _infer, "sentinel": _sentinel, "measure": _measure,
    "layers": _layers, "placement": _placement, "calibrate": _calibrate, "energy": _energy, "build": _build,
    "lock": _lock, "watch": _watch,
}  # fmt: skip
