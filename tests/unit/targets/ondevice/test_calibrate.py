"""Calibration on the device: probes are checked, timed or skipped with a reason; copies are bounded by memory."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from targets.ondevice import calibrate
from targets.ondevice.failure import BAD_INPUT, DEVICE, REFUSED, Failure

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {
    "providers": ["CPUExecutionProvider"], "threads": 1, "allow_spinning": False, "memory_pattern": True,
    "denormal_as_zero": False, "optimization": "all",
}  # fmt: skip
GOOD = '<ir_version: 9, opset_import: ["" : 17]> p (float[4,4] x) => (float[4,4] y) { y = MatMul(x, x) }'
UNKNOWN = (
    '<ir_version: 9, opset_import: ["" : 17, "nobody" : 1]> p (float[4,4] x) => (float[4,4] y) { y = nobody.No(x) }'
)


def _folder(folder: Path, **models: str) -> Path:
    rows = []
    for name, text in models.items():
        data = onnx.parser.parse_model(text).SerializeToString()
        (folder / f"{name}.onnx").write_bytes(data)
        rows.append(
            {
                "name": name, "file": f"{name}.onnx", "sha256": hashlib.sha256(data).hexdigest(),
                "inputs": [{"name": "x", "dtype": "float32", "shape": [4, 4]}], "optimization": "all",
            }
        )  # fmt: skip
    (folder / "probes.json").write_text(json.dumps({"schema": 1, "options": OPTIONS, "probes": rows}))
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "_PROBE_S", 0.0)
    monkeypatch.setattr(calibrate, "_COPY_S", 0.0)
    monkeypatch.setattr(calibrate, "_LARGEST_COPY", 1 << 16)


def test_probes_and_copies_are_timed(tmp_path: Path) -> None:
    """Every probe and every level of memory comes with a best and a median time; the best is not above the median."""
    found = calibrate.calibrate(_folder(tmp_path, a=GOOD, b=GOOD), 2)
    assert set(found["probes"]) == {"a", "b"}
    assert set(found["copies"]) == {"l2", "llc", "memory"}
    for row in (*found["probes"].values(), *found["copies"].values()):
        assert 0 < row["best_ns"] <= row["median_ns"]
    assert found["threads"] == 2


def test_what_this_runtime_cannot_run_is_skipped_with_the_reason(tmp_path: Path) -> None:
    """One unknown operator does not cost the other figures, and is not passed over in silence."""
    found = calibrate.calibrate(_folder(tmp_path, a=GOOD, odd=UNKNOWN), 1)
    assert set(found["probes"]) == {"a"}
    assert "No" in found["skipped"]["odd"]


def test_nothing_that_runs_is_a_failure(tmp_path: Path) -> None:
    """No probe at all is an error of the device."""
    with pytest.raises(Failure) as caught:
        calibrate.calibrate(_folder(tmp_path, odd=UNKNOWN), 1)
    assert caught.value.exit_code == DEVICE


def test_a_late_probe_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over, what is left is named, and the device answers all the same."""
    clock = iter([0.0, 0.0, 99.0, 99.0, 99.0])
    monkeypatch.setattr(calibrate.time, "monotonic", lambda: next(clock))
    found = calibrate.calibrate(_folder(tmp_path, a=GOOD, b=GOOD), 1)
    assert set(found["probes"]) == {"a"}
    assert "were over" in found["skipped"]["b"]


def test_a_changed_probe_is_refused(tmp_path: Path) -> None:
    """Only the models that were sent are run."""
    folder = _folder(tmp_path, a=GOOD)
    (folder / "a.onnx").write_bytes(b"something else")
    with pytest.raises(Failure) as caught:
        calibrate.calibrate(folder, 1)
    assert caught.value.exit_code == REFUSED


@pytest.mark.parametrize("document", [{}, {"probes": []}, {"probes": [{}], "options": OPTIONS}, {"probes": 3}])
def test_a_folder_that_is_no_set_of_probes_is_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    """The list of probes is checked before anything runs."""
    (tmp_path / "probes.json").write_text(json.dumps(document))
    with pytest.raises(Failure) as caught:
        calibrate.calibrate(tmp_path, 1)
    assert caught.value.exit_code == BAD_INPUT


def _cache(root: Path, index: int, level: int, size: str, kind: str = "Unified") -> None:
    for cpu in range(256):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        folder.mkdir(parents=True)
        for leaf, text in {"level": str(level), "size": size, "type": kind}.items():
            (folder / leaf).write_text(f"{text}\n")


def test_cache_sizes_come_from_the_kernel(tmp_path: Path) -> None:
    """L2 and the last level are read; instruction caches are not taken for data caches."""
    _cache(tmp_path, 0, 1, "48K", "Data")
    _cache(tmp_path, 1, 2, "512K")
    _cache(tmp_path, 2, 3, "32M")
    _cache(tmp_path, 3, 4, "64M", "Instruction")
    assert calibrate.cache_sizes(str(tmp_path)) == {"l2": 512 << 10, "llc": 32 << 20, "assumed": False}


def test_unknown_caches_are_called_assumed(tmp_path: Path) -> None:
    """Where the kernel does not tell, the sizes are marked as assumed."""
    assert calibrate.cache_sizes(str(tmp_path))["assumed"] is True


def test_copies_never_take_much_of_the_memory() -> None:
    """Source and destination together take at most a quarter of the free memory, however large the cache."""
    sizes = calibrate.copy_sizes({"l2": 1 << 20, "llc": 1 << 30}, 64 << 20)
    assert max(sizes.values()) <= 16 << 20
    assert sizes["l2"] <= 1 << 19
