"""Which engines may run here: a compiled plan is native code, so it is our own, signed for us, or named by hash."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.errors import EdgepressError, RefusedError

if TYPE_CHECKING:
    from pipeline.bundling.manifest import Manifest

TRUSTED: Final = "EDGEPRESS_TRUST_ENGINE"
"""Environment variable: sha256 of engines that may run, separated by commas."""

_NATIVE: Final = frozenset({"tensorrt", "tensorrt_rtx"})


def check_trusted(
    folder: Path, manifest: Manifest, *, trusted: Collection[str] = (), environ: Mapping[str, str] = os.environ
) -> None:
    """Does nothing when the engine of a bundle is no native code, or is trusted.

    Args:
        folder: The bundle, its bytes checked.
        manifest: Its manifest.
        trusted: Engines (sha256) that the user vouches for.
        environ: Where the store and further trusted engines are named.

    Raises:
        RefusedError: It is a stranger's compiled plan.
    """
    spec = json.loads((folder / "engine.json").read_bytes())
    if spec.get("runtime") not in _NATIVE or spec.get("build_on_device"):
        return
    sha256 = manifest.engine_sha256
    vouched = {*trusted, *environ.get(TRUSTED, "").lower().split(",")}
    if sha256 in vouched or _built_here(sha256, environ):
        return
    raise RefusedError(
        f"refused: the engine of {manifest.name!r} was not built here",
        "a TensorRT plan runs native code, and this one is in no cache of yours",
        f"build it from the ONNX model, verify it with --key of who signed it, or trust it: {TRUSTED}={sha256}",
    )


def _built_here(sha256: str, environ: Mapping[str, str]) -> bool:
    """Whether a result in the user's own, private store holds that very file."""
    from pipeline.store import Store, default_store_root

    try:
        root = default_store_root(environ)
        return root.is_dir() and any(ref.sha256 == sha256 for entry in Store(root).entries() for ref in entry.files)
    except EdgepressError:
        return False
