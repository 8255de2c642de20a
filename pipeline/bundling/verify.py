"""Verifies a bundle: every byte against the manifest, then the engine's answers to the golden vectors.

The program that runs the engine is always our own, packed anew; the ``ondevice.pyz`` inside the bundle is foreign code
here and is only hashed.
"""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.bundling.archive import ArchiveLimits, extract_archive
from pipeline.bundling.manifest import MANIFEST_NAME, Manifest, read_manifest, regular_files
from pipeline.bundling.signature import check_signature, sign_manifest, signature_path
from pipeline.bundling.trust import check_trusted
from targets.errors import DeviceError, RefusedError, error_from_json
from targets.files import disk_guard, sha256_file
from targets.process import ChildResult, Limits, run_limited

_REBUILD: Final = "take the bundle again from where it was built, or build it again with `edgepress run`"
_OTHER_DISK: Final = "choose another folder for temporary files with TMPDIR"
_ENGINE_LIMITS: Final = Limits(timeout_s=300, memory_bytes=16 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What holds of a bundle; anything that does not hold is an error instead.

    Attributes:
        name: The recipe's name.
        target: The target's name.
        precision: Of the engine.
        files: Number of files re-hashed, the manifest included.
        bytes: Their size, the manifest included.
        engine_ok: True when the golden vectors ran and are within tolerance; None when they were not asked for.
        samples: Golden samples that ran.
        worst_error: The largest absolute error of any output; None when not run.
        argmax_agreement_ratio: Share of samples with the golden arg-max, the worst output; None without classes.
        signed_by: Id of the key whose signature was asked for and holds; empty when none was asked for.
    """

    name: str
    target: str
    precision: str
    files: int
    bytes: int
    engine_ok: bool | None = None
    samples: int = 0
    worst_error: float | None = None
    argmax_agreement_ratio: float | None = None
    signed_by: str = ""


def verify_bundle(
    path: Path,
    *,
    run_engine: bool = True,
    key: Path | None = None,
    signatures: Path | None = None,
    trusted: Collection[str] = (),
) -> VerifyReport:
    """Checks a bundle, a folder or its ``.tar.gz``.

    Args:
        path: The bundle; untrusted.
        run_engine: Whether to run the golden vectors on this machine; it must be able to run the engine.
        key: An Ed25519 public key (PEM) that must have signed it; any bundle will do when None.
        signatures: Where its signatures lie; beside the bundle when None.
        trusted: sha256 of engines that may run although they are native code and were not built here.

    Raises:
        InputError: There is no bundle at ``path``.
        RefusedError: A file is changed, missing, extra or a link, or the archive is not plain; the first one is named.
        EnvironmentFailure: The runtime is missing, or time, memory or disk do not suffice.
        DeviceError: The engine does not run here, or its answers are off.
    """
    with _opened(path) as folder:
        manifest = read_manifest(folder / MANIFEST_NAME)
        signed_by = check_signature(folder, signatures or signature_path(path), key) if key else ""
        check_files(folder, manifest)
        if run_engine and not signed_by:
            check_trusted(folder, manifest, trusted=trusted)
        return _report(folder, manifest, run_engine=run_engine, signed_by=signed_by)


def sign_bundle(path: Path, key: Path, out: Path, *, password: bytes | None = None) -> str:
    """Re-hashes a bundle, a folder or its ``.tar.gz``, and adds a signature of it to ``out``; the key's id.

    Raises:
        InputError: There is no bundle at ``path``, or the key cannot be used.
        RefusedError: The bundle is not what its manifest says, or others may read the key.
        EnvironmentFailure: The disk is full or not writable.
    """
    with _opened(path) as folder:
        check_files(folder, read_manifest(folder / MANIFEST_NAME))
        return sign_manifest(folder, key, out, password=password)


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """The bundle's folder: itself, or unpacked for the while."""
    if path.is_dir():
        yield path
        return
    with (
        disk_guard(f"unpacking {path}", hint=_OTHER_DISK),
        tempfile.TemporaryDirectory(prefix="edgepress-verify-") as scratch,
    ):
        unpacked = Path(scratch, "unpacked")
        extract_archive(path, unpacked, limits=ArchiveLimits(entries=10_000), hint=_OTHER_DISK)
        yield only_folder(unpacked, path)


def _report(folder: Path, manifest: Manifest, *, run_engine: bool, signed_by: str) -> VerifyReport:
    result = _run_golden(folder, manifest) if run_engine else {}
    outputs = list(result.get("outputs", {}).values())
    agreements = [item["argmax_agreement_ratio"] for item in outputs if item["argmax_agreement_ratio"] is not None]
    return VerifyReport(
        name=manifest.name,
        target=manifest.target,
        precision=manifest.precision,
        files=len(manifest.files) + 1,
        bytes=manifest.total_bytes + (folder / MANIFEST_NAME).stat().st_size,
        engine_ok=True if run_engine else None,
        samples=result.get("samples", 0),
        worst_error=max((item["worst_error"] for item in outputs), default=None),
        argmax_agreement_ratio=min(agreements, default=None),
        signed_by=signed_by,
    )


def only_folder(unpacked: Path, archive: Path) -> Path:
    """The one folder at the top of an unpacked archive.

    Raises:
        RefusedError: There is something else.
    """
    found = list(unpacked.iterdir())
    if len(found) != 1 or not found[0].is_dir():
        raise RefusedError(
            f"refused: {archive.name} is no bundle",
            f"it holds {len(found)} entries at the top, not one folder",
            _REBUILD,
        )
    return found[0]


def check_files(folder: Path, manifest: Manifest) -> None:
    """Re-hashes every file of a bundle.

    Raises:
        RefusedError: A file is changed, missing, extra or a link; the first one is named.
    """
    present = {path.name: path for path in regular_files(folder) if path.name != MANIFEST_NAME}
    for name in sorted(manifest.files.keys() - present.keys()):
        raise RefusedError(f"refused: {name} is missing", f"{MANIFEST_NAME} lists it", _REBUILD)
    for name in sorted(present.keys() - manifest.files.keys()):
        raise RefusedError(
            f"refused: {name!r} does not belong to the bundle", f"{MANIFEST_NAME} does not list it", f"remove {name!r}"
        )
    for name, entry in sorted(manifest.files.items()):
        size_bytes = present[name].stat().st_size
        if size_bytes != entry.size_bytes:
            raise RefusedError(
                f"refused: {name} was changed",
                f"it has {size_bytes} bytes, {MANIFEST_NAME} says {entry.size_bytes}",
                _REBUILD,
            )
        digest = sha256_file(present[name])
        if digest != entry.sha256:
            raise RefusedError(
                f"refused: {name} was changed", f"its sha256 is {digest}, {MANIFEST_NAME} says {entry.sha256}", _REBUILD
            )


def _run_golden(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The result of our own device program; its failures are raised as the errors they are."""
    from targets.ondevice_pack import FILE_NAME, pack

    what = f"golden check of the engine of {manifest.name!r}"
    nonce = secrets.token_hex(8)
    with (
        disk_guard(f"preparing the {what}", hint=_OTHER_DISK),
        tempfile.TemporaryDirectory(prefix="edgepress-verify-") as scratch,
    ):
        program = Path(scratch, FILE_NAME)
        program.write_bytes(pack())
        argv = [sys.executable, "-I", str(program), "verify", "--nonce", nonce, str(folder.resolve())]
        child = run_limited(argv, limits=_ENGINE_LIMITS, what=what)
    document = _document(child)
    error, result = document.get("error"), document.get("result")
    if isinstance(error, dict):
        kinds = {3: "InputError", 4: "RefusedError", 5: "EnvironmentFailure"}
        raise error_from_json({**error, "error": kinds.get(child.returncode, "DeviceError")})
    if child.returncode != 0 or document.get("nonce") != nonce or not isinstance(result, dict):
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines() or ["it wrote nothing"]
        raise DeviceError(
            f"the {what} failed",
            f"exit status {child.returncode}: {lines[-1][:300]!r}",
            "run `edgepress doctor`, then verify again",
        )
    if result["engine_sha256"] != manifest.engine_sha256 or result["samples"] != manifest.golden.samples:
        raise DeviceError(f"the {what} failed", "it answered for another engine or other samples", _REBUILD)
    return result


def _document(child: ChildResult) -> dict[str, Any]:
    try:
        document = json.loads(child.stdout)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
