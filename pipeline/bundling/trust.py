"""Which engines may run here: what is native code must be our own, signed for us, or named by hash.

A TensorRT plan is code. So is what a stranger's file can make ONNX Runtime load: a node that holds a compiled engine
(EPContext), and a provider's option that names a library.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.bundling.manifest import MANIFEST_NAME
from targets.errors import EdgepressError, InputError, RefusedError
from targets.files import sha256_file

if TYPE_CHECKING:
    from pipeline.bundling.manifest import Manifest

TRUSTED: Final = "EDGEPRESS_TRUST_ENGINE"
"""Environment variable: sha256 of engines, or of manifests of bundles, that may run, separated by commas."""

_NATIVE: Final = frozenset({"tensorrt", "tensorrt_rtx"})
_COMPILED: Final = b"EPContext"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:;,=+ -]{0,200}")
_PLACES: Final = re.compile(r"path|lib|file|dir|cache|config|plugin|context", re.IGNORECASE)
_VENDORS_OWN: Final = re.compile(r"(lib)?Qnn[A-Za-z]{1,20}\.(so|dll)")
_TEXTS: Final = (".json", ".txt", ".md", ".html")
_BLOCK_BYTES: Final = 1 << 20


def check_trusted(
    folder: Path, manifest: Manifest, *, trusted: Collection[str] = (), environ: Mapping[str, str] = os.environ
) -> None:
    """Does nothing when the engine of a bundle is no native code, or is trusted.

    Args:
        folder: The bundle, its bytes checked.
        manifest: Its manifest.
        trusted: What the user vouches for: sha256 of plans, or of the manifests of bundles that load more than those.
        environ: Where the store and further trusted engines are named.

    Raises:
        InputError: There is no engine.json that can be read.
        RefusedError: It is a stranger's native code.
    """
    spec = _spec(folder)
    why, sha256, stage = _code_beside(folder, manifest, spec), sha256_file(folder / MANIFEST_NAME), "bundle"
    if not why:
        if spec.get("runtime") not in _NATIVE or spec.get("build_on_device"):
            return
        why, sha256, stage = "a TensorRT plan runs native code", manifest.engine_sha256, "build"
    vouched = {*trusted, *environ.get(TRUSTED, "").lower().split(",")}
    if sha256 in vouched or _made_here(sha256, stage, environ):
        return
    raise RefusedError(
        f"refused: the engine of {manifest.name!r} was not built here",
        f"{why}, and this one is in no cache of yours",
        f"build it from the ONNX model, `edgepress verify --key` it, or trust this very one: {TRUSTED}={sha256}",
    )


def _code_beside(folder: Path, manifest: Manifest, spec: Mapping[str, Any]) -> str:
    """Why the bundle makes a runtime load code beside its own; empty when it does not.

    The engine's hash says nothing here: what is loaded stands in engine.json, or in other files of the bundle.
    """
    options = spec.get("options")
    given = options.get("provider_options", {}) if isinstance(options, dict) else {}
    for provider, own in given.items() if isinstance(given, dict) else ():
        for key, value in own.items() if isinstance(own, dict) else ():
            if _names_code(str(key), str(value), manifest):
                return f"its option {key!r} makes {provider} load a file"
    if any(_holds(folder / name, _COMPILED) for name in manifest.files if not name.endswith(_TEXTS)):
        return "it holds an engine that was compiled elsewhere, which runs native code"
    return ""


def _spec(folder: Path) -> dict[str, Any]:
    try:
        spec: object = json.loads((folder / "engine.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        spec = type(error).__name__
    if isinstance(spec, dict):
        return spec
    raise InputError(
        f"{folder} holds no engine", f"its engine.json is no JSON object ({str(spec)[:80]!r})",
        "take the bundle again from where it was built",
    )  # fmt: skip


def _names_code(key: str, value: str, manifest: Manifest) -> bool:
    """Whether an option may name a file: libraries of the vendor that the system finds by itself are none of ours."""
    if not _PLAIN.fullmatch(value) or value in manifest.files:
        return True
    return _PLACES.search(key) is not None and not _VENDORS_OWN.fullmatch(value)


def _holds(path: Path, word: bytes) -> bool:
    """Whether a file holds the word: ONNX and ORT files both write operators out."""
    kept = b""
    with path.open("rb") as file:
        while data := file.read(_BLOCK_BYTES):
            if word in kept + data:
                return True
            kept = data[-len(word) :]
    return False


def _made_here(sha256: str, stage: str, environ: Mapping[str, str]) -> bool:
    """Whether the user's own, private store holds a file with that hash which that stage made."""
    from pipeline.store import Store, default_store_root

    try:
        root = default_store_root(environ)
        entries = Store(root).entries() if root.is_dir() else []
    except EdgepressError:
        return False
    made = [entry for entry in entries if entry.stage.partition(":")[0] == stage]
    return any(ref.sha256 == sha256 for entry in made for ref in entry.files)
