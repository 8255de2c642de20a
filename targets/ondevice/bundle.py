"""Checks a bundle folder against its manifest: every file's hash, nothing missing, nothing extra, no links."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .built import BUILT, waits_for_device
from .failure import BAD_INPUT, REFUSED, Failure
from .session import read_json, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = "manifest.json"
_FIX = "copy the bundle again from where it was built; use none whose check fails"


def check_bundle(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle whose files are exactly those it lists, but for what this device built from them.

    Raises:
        Failure: There is no valid manifest (3), or a file is changed, missing, extra or a link (4).
    """
    if not folder.is_dir():
        raise Failure(BAD_INPUT, f"{folder} is no bundle", "it is no folder", "give the path of a bundle folder")
    if (folder / MANIFEST).is_symlink():
        raise _refused(f"{MANIFEST} is a link", "a bundle holds plain files only")
    manifest = read_json(folder / MANIFEST)
    listed = _listed(manifest)
    present = _present(folder)
    missing, extra = sorted(set(listed) - set(present)), sorted(set(present) - set(listed) - {MANIFEST})
    if missing:
        raise _refused("the bundle lacks {}".format(", ".join(missing)), f"{MANIFEST} lists it")
    if extra:
        raise _refused("the bundle holds {}".format(", ".join(extra)), f"{MANIFEST} does not list it")
    for name in sorted(listed):
        _check_file(folder / name, name, listed[name])
    if (folder / BUILT).exists() and not waits_for_device(folder):
        raise _refused(f"the bundle holds {BUILT}", "its engine is not one that a device builds")
    return manifest


def _listed(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    files = manifest.get("files")
    if manifest.get("schema") != 1 or not isinstance(files, dict) or not files:
        raise Failure(
            BAD_INPUT,
            "manifest.json is not valid",
            "it has no schema 1 with a list of files",
            "use a bundle of edgepress",
        )
    for name, entry in files.items():
        parts = name.split("/")
        if name == MANIFEST or "\\" in name or any(part in {"", ".", ".."} for part in parts):
            raise _refused(f"manifest.json lists {name!r}", "names must stay inside the bundle")
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("bytes"), int)
        ):
            raise Failure(BAD_INPUT, "manifest.json is not valid", f"{name!r} has no sha256 and bytes", _FIX)
    return files


def _present(folder: Path) -> list[str]:
    """Every file below ``folder``, but for what this device built."""
    found = []
    for root, folders, files in os.walk(str(folder), followlinks=False):
        if BUILT in folders and root == str(folder) and not (folder / BUILT).is_symlink():
            folders.remove(BUILT)
        for name in folders + files:
            path = Path(root) / name
            mode = path.lstat().st_mode
            relative = path.relative_to(folder).as_posix()
            if stat.S_ISREG(mode):
                found.append(relative)
            elif not stat.S_ISDIR(mode):
                raise _refused(f"{relative} is a link or no plain file", "a bundle holds plain files only")
    return found


def _check_file(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise _refused(f"{name} was changed", "it has {} bytes, {} says {}".format(size, MANIFEST, entry["bytes"]))
    found = sha256_of(path)
    if found != entry["sha256"]:
        raise _refused(f"{name} was changed", "its sha256 is {}, {} says {}".format(found, MANIFEST, entry["sha256"]))


def _refused(what: str, why: str) -> Failure:
    return Failure(REFUSED, what, why, _FIX)
