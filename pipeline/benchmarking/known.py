"""What earlier campaigns learnt of a device: how much an engine differs from itself there, with the date."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from targets.files import disk_guard, sha256_bytes, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

MAX_AGE: Final = dt.timedelta(days=30)
_SCHEMA: Final = 1
_PLAIN: Final = re.compile(r"[0-9a-f]{8,64}")
_PRIVATE: Final = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much an engine differed from itself (A/A), paired by block.

    Attributes:
        low: Lower end of the 95 % interval of the ratio.
        high: Its upper end.
        ratio: Its middle.
        blocks: Blocks it rests on.
        utc: When, ISO 8601.
    """

    low: float
    high: float
    ratio: float
    blocks: int
    utc: str

    @property
    def floor_ratio(self) -> float:
        """The largest difference that may be noise: 0.02 is 2 %."""
        return max(abs(math.log(self.low)), abs(math.log(self.high)))

    def to_json(self) -> dict[str, Any]:
        """As plain data, for results and for the file."""
        return {**asdict(self), "ci95": [self.low, self.high], "floor_ratio": self.floor_ratio}


def private_folder(path: Path) -> Path:
    """The folder, made with mode 0700 where it was missing.

    Raises:
        EnvironmentFailure: It cannot be made.
    """
    with disk_guard(f"making the folder {path}", path=path.parent):
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    return path


def devices_folder(state: Path) -> Path:
    """Where files about devices are kept, private to this user.

    Raises:
        EnvironmentFailure: It cannot be made.
    """
    return private_folder(private_folder(state) / "devices")


def device_id(fingerprint: str) -> str:
    """A device's fingerprint as part of a file name; what is not plain hex comes as its hash."""
    return fingerprint if _PLAIN.fullmatch(fingerprint) else sha256_bytes(fingerprint.encode())[:16]


def recall_noise(state: Path, fingerprint: str, now: dt.datetime) -> Noise | None:
    """What is known of the noise of a device; None when it was never learnt, is over 30 days old, or unreadable.

    None means that the next campaign learns it again, so nothing wrong can come of a damaged file.
    """
    try:
        data = json.loads(_noise_file(state, fingerprint).read_text(encoding="utf-8"))
        noise = Noise(
            low=float(data["low"]), high=float(data["high"]), ratio=float(data["ratio"]),
            blocks=int(data["blocks"]), utc=str(data["utc"]),
        )  # fmt: skip
        age = now - dt.datetime.fromisoformat(noise.utc)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    sound = data.get("schema") == _SCHEMA and 0 < noise.low <= noise.high < math.inf
    return noise if sound and dt.timedelta(0) <= age <= MAX_AGE else None


def remember_noise(state: Path, fingerprint: str, noise: Noise) -> None:
    """Keeps what a campaign learnt, in the place of what was known.

    Raises:
        EnvironmentFailure: The disk refused.
    """
    devices_folder(state)
    text = json.dumps({"schema": _SCHEMA, **asdict(noise)}, sort_keys=True) + "\n"
    write_atomic(_noise_file(state, fingerprint), text.encode(), 0o600)


def _noise_file(state: Path, fingerprint: str) -> Path:
    return state / "devices" / f"noise-{device_id(fingerprint)}.json"
