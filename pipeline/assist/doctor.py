"""Examines the machine: is everything there that a run needs?"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from targets import machine
from targets.errors import EdgepressError

MINIMUM_VERSIONS: Final = {"torch": (2, 10), "onnx": (1, 21), "onnxruntime": (1, 24), "numpy": (1, 26)}
MINIMUM_FREE_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is about.
        ok: Whether it is as a run needs it.
        text: What was found.
        fix: What to do when it is not ok.
    """

    subject: str
    ok: bool
    text: str
    fix: str = ""


def examine() -> list[Finding]:
    """Everything there is to say about this machine; changes nothing but creating the store's folder."""
    return [
        _python(),
        *(_library(name, least) for name, least in MINIMUM_VERSIONS.items()),
        _profile(),
        *_store(),
        _shadowing(),
    ]


def _python() -> Finding:
    text = ".".join(map(str, sys.version_info[:3]))
    return Finding(subject="python", ok=sys.version_info >= (3, 11), text=text, fix="install Python 3.11 or later")


def _library(name: str, least: tuple[int, int]) -> Finding:
    wanted = ".".join(map(str, least))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(subject=name, ok=False, text="not installed", fix=f"pip install '{name}>={wanted}'")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    return Finding(
        subject=name,
        ok=numbers >= least,
        text=version,
        fix=f"pip install '{name}>={wanted}' (older ones have known holes)",
    )


def _profile() -> Finding:
    from targets.profile import load_profile

    try:
        profile = load_profile("host")
    except EdgepressError as error:
        return Finding(subject="host", ok=False, text=error.why, fix=error.fix)
    return Finding(
        subject="host",
        ok=True,
        text=f"{machine.cpu_model()}; {profile.description}, scheme {profile.quantization.scheme}",
    )


def _store() -> list[Finding]:
    from pipeline.store import Store, default_store_root

    root = default_store_root(os.environ)
    try:
        Store(root)
    except EdgepressError as error:
        return [Finding(subject="store", ok=False, text=f"{error.what}: {error.why}", fix=error.fix)]
    free = shutil.disk_usage(root).free
    return [
        Finding(subject="store", ok=True, text=str(root)),
        Finding(
            subject="disk",
            ok=free >= MINIMUM_FREE_BYTES,
            text=f"{free / 1e9:.1f} GB free at the store",
            fix="free some space, `edgepress cache gc --older-than 30`, or set EDGEPRESS_CACHE to another disk",
        ),
    ]


def _shadowing() -> Finding:
    import pipeline

    found = Path(str(pipeline.__file__)).resolve()
    expected = Path(__file__).resolve().parents[1] / "__init__.py"
    return Finding(
        subject="import",
        ok=found == expected,
        text=f"package `pipeline` is {found.parent}",
        fix="a folder or file called `pipeline` shadows ours; use the `edgepress` command, not `python -m`",
    )
