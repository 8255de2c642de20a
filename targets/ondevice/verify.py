"""Verifies a bundle: hashes first, then the engine's outputs on the golden samples, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import read_arrays
from .built import engine_folder
from .bundle import check_bundle
from .failure import BAD_INPUT, DEVICE, REFUSED, Failure
from .runner import engine_errors, open_runner
from .session import one_sample_feeds, read_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Checks all hashes, runs the golden samples, and compares every output.

    Raises:
        Failure: A file is not as the manifest says (4), the runtime is missing (5), or an output is off (6).
    """
    manifest = check_bundle(folder)
    spec = read_spec(folder)
    delivered = spec["sha256"]
    if manifest.get("engine_sha256") != delivered:
        raise Failure(
            REFUSED,
            "the manifest is for another engine",
            "it says {}, engine.json says {}".format(manifest.get("engine_sha256"), spec["sha256"]),
            "copy the bundle again from where it was built",
        )
    golden = manifest.get("golden")
    if not isinstance(golden, dict) or str(golden.get("file")) not in manifest["files"]:
        raise Failure(
            BAD_INPUT,
            "manifest.json is not valid",
            "it names no golden file of the bundle",
            "use a bundle of edgepress",
        )
    rtol, atol = golden.get("rtol", -1.0), golden.get("atol")
    if not _is_tolerance(rtol) or not isinstance(atol, dict) or not all(_is_tolerance(v) for v in atol.values()):
        raise Failure(
            BAD_INPUT, "manifest.json is not valid", "golden has no usable rtol and atol", "use a bundle of edgepress"
        )
    path = str(folder / golden["file"])
    feeds = one_sample_feeds(read_arrays(path, "input."), spec)
    wanted = read_arrays(path, "output.")
    if len(feeds) != golden.get("samples"):
        raise Failure(
            BAD_INPUT,
            f"the golden file has {len(feeds)} samples",
            "manifest.json says {}".format(golden.get("samples")),
            "copy the bundle again from where it was built",
        )
    if spec.get("build_on_device") is True:
        folder = engine_folder(folder)
        spec = read_spec(folder)
    runner = open_runner(folder, spec)
    names = [item["name"] for item in spec["outputs"]]
    try:
        rows = [runner.run(feed) for feed in feeds]
    except engine_errors(spec) as error:
        why, fix = " ".join(str(error).split())[:500], "check that the device is sound; then build for it again"
        raise Failure(DEVICE, "the engine failed on the golden samples", why, fix) from error
    got = {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}
    outputs = compare_outputs(got, wanted, rtol, atol)
    return {
        "ok": True,
        "files": len(manifest["files"]),
        "samples": len(feeds),
        "outputs": outputs,
        "engine_sha256": delivered,
        "built_sha256": None if spec["sha256"] == delivered else spec["sha256"],
        "engine": spec.get("engine", "onnxruntime"),
        "runtime": spec.get("runtime", "onnxruntime"),
        "runtime_version": runner.runtime_version,
        "built_with": spec.get("runtime_version"),
    }


def _is_tolerance(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")


def compare_outputs(
    got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], rtol: float, atol: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Worst error and argmax agreement of every output.

    Args:
        got: Output name to array ``(samples, ...)`` from this device.
        wanted: The same from the machine that built the bundle.
        rtol: Allowed error relative to the wanted value.
        atol: Allowed absolute error, by output name.

    Raises:
        Failure: Names or shapes differ, a value is not finite, or an error exceeds what is allowed.
    """
    if sorted(got) != sorted(wanted) or sorted(atol) != sorted(wanted):
        raise Failure(
            BAD_INPUT,
            "the golden file is for another model",
            f"the engine gives {sorted(got)}, the file has {sorted(wanted)}, tolerances are for {sorted(atol)}",
            "use a bundle of edgepress",
        )
    report = {}
    for name in sorted(wanted):
        mine, theirs = got[name], wanted[name]
        if mine.shape != theirs.shape:
            raise _off(name, f"its shape is {list(mine.shape)}, golden {list(theirs.shape)}")
        report[name] = _compare(name, mine.astype(np.float64), theirs.astype(np.float64), rtol, float(atol[name]))
    return report


def _compare(name: str, mine: np.ndarray, theirs: np.ndarray, rtol: float, atol: float) -> dict[str, Any]:
    if not np.isfinite(mine).all():
        raise _off(name, f"{int((~np.isfinite(mine)).sum())} values are not finite")
    error = np.abs(mine - theirs)
    excess = error - (atol + rtol * np.abs(theirs))
    worst = float(error.max())
    agreement = None
    if mine.ndim == 2 and mine.shape[1] > 1:  # noqa: PLR2004 - (samples, classes)
        agreement = float((mine.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    if not (excess <= 0).all():  # a NaN fails too
        sample = int(np.unravel_index(excess.argmax(), excess.shape)[0])
        allowed = atol + rtol * float(np.abs(theirs[sample]).max())
        detail = "" if agreement is None else f"; the arg-max agrees on {agreement:.0%} of samples"
        raise _off(name, f"sample {sample} is off by {float(error[sample].max()):.3g}, allowed {allowed:.3g}{detail}")
    return {"worst_error": worst, "atol": atol, "rtol": rtol, "argmax_agreement_ratio": agreement}


def _off(name: str, why: str) -> Failure:
    return Failure(
        DEVICE,
        f"output {name!r} is not what the bundle promises",
        why,
        "install the runtime version of requirements.txt; if it stays, this device computes differently: build for it",
    )
