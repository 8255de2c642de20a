"""Where the store lies, and whether that place can be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.errors import EnvironmentFailure, RefusedError
from targets.files import disk_guard

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHER_CACHE: Final = "choose another cache with EDGEPRESS_CACHE"
"""What helps where a place of the store is full or cannot be written."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def default_store_root(environ: Mapping[str, str]) -> Path:
    """``$EDGEPRESS_CACHE``, else ``$XDG_CACHE_HOME/edgepress``, else ``~/.cache/edgepress``; empty counts as unset.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification demands.

    Raises:
        EnvironmentFailure: None of them is set, and there is no HOME.
    """
    if chosen := environ.get("EDGEPRESS_CACHE"):
        return Path(chosen).absolute()
    if os.path.isabs(xdg := environ.get("XDG_CACHE_HOME", "")):  # noqa: PTH117  # Path("") is "."
        return Path(xdg, "edgepress")
    if home := environ.get("HOME"):
        return Path(home, ".cache", "edgepress")
    raise EnvironmentFailure(
        "there is no place for the cache", "neither EDGEPRESS_CACHE nor XDG_CACHE_HOME nor HOME is set",
        "set EDGEPRESS_CACHE to a folder of your own",
    )  # fmt: skip


def private_root(root: Path) -> Path:
    """Makes the folder (0700) if need be, and gives its real path if nobody else can put anything there.

    Raises:
        RefusedError: It is not ours, others can write to it or replace it, or it is not a folder.
        EnvironmentFailure: It cannot be made.
    """
    with disk_guard(f"making the cache {root}", hint=OTHER_CACHE):
        for link in (root.absolute(), *root.absolute().parents):
            if link.is_symlink() and link.lstat().st_uid not in {0, os.geteuid()}:
                raise _refused(root, f"{link} is a link that another user made")
        real = root.resolve()
        real.parent.mkdir(parents=True, exist_ok=True)
        private_folder(real)
        for parent in real.parents:
            mode = parent.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise _refused(root, f"everybody can rename what lies in {parent}")
    return real


def private_folder(folder: Path) -> None:
    """Makes one folder (0700) if need be.

    Raises:
        RefusedError: What is there is a link, no folder, not ours, or writable by others.
        OSError: It cannot be made.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise RefusedError(
                f"refused to use the cache {folder}", "it is a link or a file, not a folder",
                "remove it, or choose another cache with EDGEPRESS_CACHE",
            ) from None  # fmt: skip
        if found.st_uid != os.geteuid():
            raise _refused(folder, f"it belongs to user {found.st_uid}, not to you ({os.geteuid()})") from None
        if found.st_mode & _OTHERS_WRITE:
            raise _refused(folder, "other users can write to it") from None


def measuring_folder(root: Path) -> Path:
    """The private folder below a store that keeps what interrupted measurements have finished; made if need be.

    Raises:
        RefusedError: What is there is not ours, or others can write to it.
        EnvironmentFailure: It cannot be made.
    """
    folder = root / "measuring"
    with disk_guard(f"making {folder}", hint=OTHER_CACHE):
        private_folder(folder)
    return folder


def unfinished_folder(root: Path) -> Path:
    """The private folder below a store that keeps what interrupted stages have finished; made if need be.

    Raises:
        RefusedError: What is there is not ours, or others can write to it.
        EnvironmentFailure: It cannot be made.
    """
    folder = root / "unfinished"
    with disk_guard(f"making {folder}", hint=OTHER_CACHE):
        private_folder(folder)
    return folder


def _refused(folder: Path, why: str) -> RefusedError:
    return RefusedError(
        f"refused to use the cache {folder}", f"{why}; what they put there would be trusted",
        f"run `chmod 700 {folder}` if it is yours, or choose another cache with EDGEPRESS_CACHE",
    )  # fmt: skip
