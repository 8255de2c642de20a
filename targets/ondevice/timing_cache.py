"""Kernel times of earlier builds, kept beside the build: used where everything they depend on is the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from .atomic import write_file
from .failure import Failure
from .session import read_json
from .tensorrt_module import RTX, Vendor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .cuda import Gpu

FOLDER = "cache"
FACTS = ("compute_capability", "device", "driver", "tensorrt")
_MAX_BYTES = 256 << 20


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
        """Keeps the times for the next build."""
        self.path.parent.mkdir(exist_ok=True)
        write_file(self.path, data)
        said = {"schema": 1, "facts": dict(self.facts), "sha256": hashlib.sha256(data).hexdigest()}
        write_file(self.path.with_suffix(".json"), (json.dumps(said, indent=1, sort_keys=True) + "\n").encode())


def cache_of(folder: Path, vendor: Vendor, gpu: Gpu) -> TimingCache:
    """The cache in ``folder`` of this GPU, driver and TensorRT."""
    facts = {
        "device": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver,
        "tensorrt": f"{vendor.__name__} {vendor.__version__}",
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return TimingCache(path=folder / FOLDER / f"timing-{key}.bin", facts=facts)


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
