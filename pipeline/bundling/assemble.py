"""Assembles a bundle folder: the engine, golden vectors, the device program, how to use it, and the manifest last."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.bundling.manifest import Manifest, requirements_text, write_manifest
from targets.errors import InputError, RefusedError
from targets.files import disk_guard, sha256_file, write_atomic
from targets.ondevice_pack import FILE_NAME, pack

GOLDEN_NAME: Final = "golden.npz"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the first time stamp that zip can hold
_README: Final = """\
{name}: an {precision} engine for {target}, made by edgepress.
1. Copy this folder to the device as it is; the device needs Python 3 and what requirements.txt lists:
       python3 -m pip install -r requirements.txt
2. Check that it arrived whole and answers as where it was built:
       python3 ondevice.pyz verify
3. Measure it there:
       python3 ondevice.pyz measure
4. In your own program, open {engine} with {runtime}; engine.json has the options, inputs and outputs.
"""
_README_TO_BUILD: Final = """\
{name}: an {precision} engine for {target}, to be built on the device by {runtime}; made by edgepress.
An engine of {runtime} holds for one device and one version only, so this folder holds what it is made of:
{engine} with all precisions written into the graph, and build.json, which says how.
1. Copy this folder to the device as it is; the device needs Python 3 and what requirements.txt lists.
2. Build the engine there (minutes), and read what it says of the precision that was built:
       python3 ondevice.pyz build .
3. Check that it arrived whole and answers as {engine} does:
       python3 ondevice.pyz verify
4. Measure it there:
       python3 ondevice.pyz measure
"""
_STANDS_IN: Final = """\
The golden answers are by {by}.
"""


def assemble_bundle(
    out: Path,
    *,
    build_folder: Path,
    golden_inputs: Mapping[str, np.ndarray],
    golden_outputs: Mapping[str, np.ndarray],
    rtol: float,
    atol: Mapping[str, float],
    manifest_fields: Mapping[str, object],
    answers_by: str = "",
    papers: Callable[[Mapping[str, str]], Mapping[str, bytes]] | None = None,
) -> Manifest:
    """Writes a complete bundle into ``out``; the same arguments give the same bytes.

    Args:
        out: A folder that is empty or does not exist; the caller publishes it when this returns.
        build_folder: An ``EngineBuild`` artifact: engine file, ``engine.json``, ``inspect.json``.
        golden_inputs: Input name to real samples, ``(samples, ...)``.
        golden_outputs: Output name to what the engine answered, ``(samples, ...)``, each sample served alone.
        rtol: Relative tolerance of the golden check.
        atol: Absolute tolerance of each output.
        manifest_fields: ``name``, ``target``, ``precision``, and where known ``versions``, ``accuracy``, ``profile``.
        answers_by: Who gave the golden answers, where that was not the engine.
        papers: Gives further files (name to content) that speak of the others (name to sha256).

    Raises:
        InputError: The build folder or the golden arrays are not complete, finite and consistent.
        RefusedError: The build folder holds a link.
        EnvironmentFailure: The disk is full or not writable.
    """
    if missing := {"name", "target", "precision"} - manifest_fields.keys():
        raise InputError(
            f"cannot write the bundle {out}", f"{sorted(missing)} are missing", "pass them in manifest_fields"
        )
    samples = _check_golden(golden_inputs, golden_outputs, atol)
    spec = _read_spec(build_folder)
    with disk_guard(f"writing the bundle {out}", path=out.parent):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"cannot write the bundle {out}", "the folder is not empty", "choose an empty folder")
        described = {spec["file"]: spec["sha256"], **spec["files"]}
        for name in (*described, "engine.json", "inspect.json"):
            _copy(build_folder / name, out / name)
        for name, digest in described.items():
            if sha256_file(out / name) != digest:
                raise InputError(
                    f"cannot bundle {build_folder}", f"{name} is not the file engine.json describes", "build it again"
                )
        arrays = {f"input.{name}": array for name, array in golden_inputs.items()}
        arrays |= {f"output.{name}": array for name, array in golden_outputs.items()}
        write_atomic(out / GOLDEN_NAME, npz_bytes(arrays))
        write_atomic(out / FILE_NAME, pack())
        requirements = requirements_text(runtime=spec["runtime"], version=spec["runtime_version"])
        write_atomic(out / "requirements.txt", requirements.encode())
        shown = {**manifest_fields, "engine": spec["file"], "runtime": spec["runtime"], "by": answers_by}
        text = (_README_TO_BUILD if spec["build_on_device"] else _README) + (_STANDS_IN if answers_by else "")
        write_atomic(out / "README.txt", text.format(**shown).encode())
        others = {path.name: sha256_file(path) for path in sorted(out.iterdir())}
        for name, content in (papers(others) if papers else {}).items():
            write_atomic(out / name, content)
    golden = {
        "file": GOLDEN_NAME,
        "samples": samples,
        "rtol": float(rtol),
        "atol": {k: float(v) for k, v in atol.items()},
    }
    return write_manifest(out, {**manifest_fields, "golden": golden, "engine_sha256": spec["sha256"]})


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as an npz whose bytes depend on names, shapes, types and values alone (`numpy.savez` adds time)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as written on Unix
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(arrays[name]), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return buffer.getvalue()


def _check_golden(
    inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], atol: Mapping[str, float]
) -> int:
    """The number of samples."""
    arrays = {**{f"input {k!r}": v for k, v in inputs.items()}, **{f"output {k!r}": v for k, v in outputs.items()}}
    if not inputs or not outputs or atol.keys() != outputs.keys():
        _not_golden("inputs or outputs are missing, or the tolerances are for other outputs")
    samples = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(samples) != 1 or 0 in samples:
        _not_golden(f"they have {sorted(samples)} samples; each needs the same number, at least one")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            _not_golden(f"{name} has the type {array.dtype}, not a number")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            _not_golden(f"{name} holds values that are not finite")
    return samples.pop()


def _not_golden(why: str) -> None:
    raise InputError(
        "the golden vectors are not usable", why, "check that the engine gives finite answers on real samples"
    )


def _read_spec(folder: Path) -> dict[str, Any]:
    try:
        spec = json.loads((folder / "engine.json").read_bytes())
        named = all(isinstance(spec[key], str) for key in ("file", "sha256", "runtime", "runtime_version"))
        spec = {"files": {}, "build_on_device": False, **spec}
        files = [spec["file"], *spec["files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"cannot bundle {folder}", f"engine.json cannot be used: {error!r}", "build the engine again"
        ) from error
    if not named or any(Path(name).name != name for name in files):
        raise InputError(f"cannot bundle {folder}", "engine.json names no engine file in it", "build the engine again")
    return dict(spec)


def _copy(source: Path, target: Path) -> None:
    if not source.is_symlink() and not source.exists():
        raise InputError(f"cannot bundle {source.parent}", f"{source.name} is missing", "build the engine again")
    if not stat.S_ISREG(source.lstat().st_mode):
        raise RefusedError(
            f"refused: {source} is not a regular file", "only files are bundled", "build the engine again"
        )
    shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(0o644)
