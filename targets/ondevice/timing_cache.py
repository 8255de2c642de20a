"""Kernel times of earlier builds: used where everything they depend on is the same.

They lie in the private folder that ``EDGEPRESS_TIMING_CACHE`` names, as edgepress does on its devices; else beside the
build, whose folder is trusted anyway: the engine lies there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .atomic import write_file
from .failure import BAD_INPUT, ENVIRONMENT, REFUSED, Failure
from .session import read_json
from .tensorrt_module import RTX, Vendor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cuda import Gpu

VARIABLE = "EDGEPRESS_TIMING_CACHE"
FOLDER = "cache"
FACTS = ("compute_capability", "device", "driver", "tensorrt")
_MAX_BYTES = 256 << 20
_MAX_FOLDER_BYTES = 512 << 20


class TimingCache(NamedTuple):
    """Where the times of one kind of device lie.

    Attributes:
        path: The vendor's data; ``.json`` beside it says what they hold for.
        facts: Device name, compute capability, TensorRT version and driver: the times hold for these alone.
    """

    path: Path
    facts: Mapping[str, str]

    def read(self) -> bytes:
        """The times, empty where there are none for these facts or the file is not the one that was written."""
        try:
            said = read_json(self.path.with_suffix(".json"))
            if said.get("facts") != dict(self.facts) or self.path.is_symlink() or self.path.stat().st_size > _MAX_BYTES:
                return b""
            data = self.path.read_bytes()
        except (OSError, Failure):
            return b""
        return data if said.get("sha256") == hashlib.sha256(data).hexdigest() else b""

    def write(self, data: bytes) -> None:
        """Keeps the times for the next build; those used longest ago make room. More than 256 MiB are not kept."""
        if len(data) > _MAX_BYTES:
            return
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(self.path, data)
        said = {"schema": 1, "facts": dict(self.facts), "sha256": hashlib.sha256(data).hexdigest()}
        write_file(self.path.with_suffix(".json"), (json.dumps(said, indent=1, sort_keys=True) + "\n").encode())
        _make_room(self.path)


def cache_of(folder: Path, vendor: Vendor, gpu: Gpu) -> TimingCache:
    """The cache of this GPU, driver and TensorRT, for a build in ``folder``.

    Raises:
        Failure: The folder that ``EDGEPRESS_TIMING_CACHE`` names is not an absolute path (3), others can write to it
            (4), or it cannot be made (5).
    """
    chosen = os.environ.get(VARIABLE, "")
    place = _private(Path(chosen)) if chosen else folder / FOLDER
    facts = {
        "device": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver,
        "tensorrt": f"{vendor.__name__} {vendor.__version__}",
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return TimingCache(path=place / f"timing-{key}.bin", facts=facts)


def _private(folder: Path) -> Path:
    """The folder, made where it is not there: times that others could have written choose the code that is built."""
    fix = f"remove it, or let {VARIABLE} name another folder"
    if not folder.is_absolute():
        raise Failure(BAD_INPUT, f"{VARIABLE} is no absolute path", f"it is {str(folder)!r}", "give the whole path")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise Failure(ENVIRONMENT, f"cannot keep kernel times in {folder}", str(error), fix) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        why = "it is not a folder of this user that nobody else can write to"
        raise Failure(REFUSED, f"refused to use {folder}", why, fix)
    return folder


def _make_room(kept: Path) -> None:
    """Removes the oldest times beside ``kept`` until all together fit."""
    others = sorted((path for path in kept.parent.glob("timing-*.bin") if path != kept), key=_written)
    room = _MAX_FOLDER_BYTES - kept.stat().st_size - sum(path.lstat().st_size for path in others)
    for path in others:
        if room >= 0:
            return
        room += path.lstat().st_size
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)


def _written(path: Path) -> float:
    return path.lstat().st_mtime


def keeps_times(vendor: Vendor) -> bool:
    """Whether builds time kernels at all: TensorRT-RTX does not, and its cache does nothing."""
    return bool(vendor.__name__ != RTX)


def load(config: Any, cache: TimingCache) -> bool:  # noqa: ANN401 - the vendor's
    """Gives the builder the known times; whether there were any and it took them. It begins with none otherwise."""
    data = cache.read()
    known = config.create_timing_cache(data) if data else None
    if known is not None and config.set_timing_cache(known, False):  # noqa: FBT003 - never ignore a mismatch
        return True
    config.set_timing_cache(config.create_timing_cache(b""), False)  # noqa: FBT003
    return False


def save(config: Any, cache: TimingCache) -> None:  # noqa: ANN401 - the vendor's
    """Keeps what the builder knows now."""
    known = config.get_timing_cache()
    if known is not None:
        cache.write(bytes(known.serialize()))
