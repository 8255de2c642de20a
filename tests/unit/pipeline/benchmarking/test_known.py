"""What is remembered of devices: private, dated, and forgotten rather than believed when anything is wrong with it."""

from __future__ import annotations

import datetime as dt
import json
import math
import stat
from typing import TYPE_CHECKING

import pytest

from pipeline.benchmarking.known import Noise, device_id, devices_folder, recall_noise, remember_noise

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
NOISE = Noise(low=0.98, high=1.01, ratio=0.995, blocks=7, utc=NOW.isoformat())


def test_noise_is_remembered_with_its_date(tmp_path: Path) -> None:
    """What was learnt comes back for that device only, in a private file; the floor is the farther end."""
    remember_noise(tmp_path, "ab" * 8, NOISE)
    assert recall_noise(tmp_path, "ab" * 8, NOW) == NOISE
    assert recall_noise(tmp_path, "cd" * 8, NOW) is None
    assert NOISE.floor_ratio == pytest.approx(-math.log(0.98))
    file = next(devices_folder(tmp_path).iterdir())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(devices_folder(tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize("age_days", [-1, 31])
def test_old_noise_is_forgotten(tmp_path: Path, age_days: int) -> None:
    """After 30 days, or from a future that a wrong clock wrote, nothing is known."""
    remember_noise(tmp_path, "f", NOISE)
    assert recall_noise(tmp_path, "f", NOW + dt.timedelta(days=age_days)) is None


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"low": 0}, {"low": 2.0}, {"high": "much"}, {"utc": "yesterday"}, {"utc": None}],
)
def test_damaged_noise_is_forgotten(tmp_path: Path, change: dict[str, object]) -> None:
    """A file that is not sound means that nothing is known; the next campaign learns it again."""
    remember_noise(tmp_path, "f", NOISE)
    file = next(devices_folder(tmp_path).iterdir())
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert recall_noise(tmp_path, "f", NOW) is None
    file.write_text("[1, 2")
    assert recall_noise(tmp_path, "f", NOW) is None
    file.write_text("[1, 2]")
    assert recall_noise(tmp_path, "f", NOW) is None


def test_a_fingerprint_is_no_path() -> None:
    """What a device says of itself never leads out of the folder."""
    assert device_id("0123456789abcdef") == "0123456789abcdef"
    assert "/" not in device_id("../../etc/passwd")
    assert device_id("") != device_id("../..")
