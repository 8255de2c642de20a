"""Kernel times that outlive the folder of a build: in a private folder, found again by the next one, bounded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from targets.devices import device as device_named
from targets.devices.base import Device as AnyDevice
from targets.devices.remote import RemoteDevice
from targets.ondevice import timing_cache
from targets.ondevice.timing_cache import VARIABLE, TimingCache

Device = Callable[..., tuple[int, dict[str, Any], str]]
TRANSPORT = Path(__file__).resolve().parents[2] / "devices" / "folder_transport.py"


def test_a_build_in_another_folder_uses_the_times(bundle: Path, device: Device, tmp_path: Path) -> None:
    """Where the environment names a folder, it is made private, holds the times, and no other build begins anew."""
    place = tmp_path / "deep" / "timing"
    other = Path(shutil.copytree(bundle, tmp_path / "other"))

    def used(folder: Path) -> bool:
        code, document, stderr = device(folder, "build", str(folder), **{VARIABLE: str(place)})
        assert code == 0, stderr
        return bool(document["result"]["timing_cache"])

    assert not used(bundle)
    assert used(other)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert len([*place.glob("timing-*.bin")]) == 1
    assert not (bundle / "built" / "cache").exists()
    place.chmod(0o770)
    code, document, _ = device(other, "build", str(other), **{VARIABLE: str(place)})
    assert (code, "nobody else can write" in document["error"]["why"]) == (4, True)


@pytest.mark.parametrize(("name", "code"), [("timing", 3), ("{}/link", 4), ("{}/file/in", 5)])
def test_a_folder_that_cannot_be_trusted_is_refused(
    name: str, code: int, bundle: Path, device: Device, tmp_path: Path
) -> None:
    """A relative one, a link, or one that cannot be made: said before anything is built, and nothing is written."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    found, document, _ = device(bundle, "build", str(bundle), **{VARIABLE: name.format(tmp_path)})
    assert found == code, document
    assert not [*(tmp_path / "elsewhere").iterdir()]
    assert not (bundle / "built" / "engine.plan").exists()


def test_the_oldest_times_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stays within its bound, what was just written stays, and what alone exceeds a file's is not kept."""
    monkeypatch.setattr(timing_cache, "_MAX_BYTES", 60)
    monkeypatch.setattr(timing_cache, "_MAX_FOLDER_BYTES", 100)
    caches = [TimingCache(path=tmp_path / f"timing-{i}.bin", facts={"device": str(i)}) for i in range(4)]
    for index, cache in enumerate(caches[:3]):
        cache.write(bytes(40))
        os.utime(cache.path, (index, index))
    assert [bool(cache.read()) for cache in caches] == [False, True, True, False]
    caches[3].write(bytes(61))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "timing-1.bin", "timing-1.json", "timing-2.bin", "timing-2.json",
    ]  # fmt: skip


@pytest.fixture
def python(environment: dict[str, str], tmp_path: Path) -> Path:
    """A Python that finds the stand-ins, though it is started to see nothing of its environment."""
    words = [f"{name}='{environment[name]}'" for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")]
    path = tmp_path / "python"
    start = f'STANDIN_TENSORRT=10.3.0 exec "{sys.executable}" "$@"'
    path.write_text(f'#!/bin/sh\n[ "$1" = -I ] && shift\n{" ".join(words)} {start}\n')
    path.chmod(0o755)
    return path


def _remote(root: Path, python: Path) -> AnyDevice:
    spec = importlib.util.spec_from_file_location("folder_transport", TRANSPORT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return RemoteDevice("folder", lambda: module.FolderTransport(root), kind="folder", python=str(python))


@pytest.mark.parametrize("kind", ["remote", "local"])
def test_a_later_session_finds_the_times(
    kind: str, bundle: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a campaign is gone after it, what an interrupted one left is removed, and the times are there."""
    root = tmp_path / "device"
    root.mkdir()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    if kind == "local":
        monkeypatch.setattr(sys, "executable", str(python))
    device = device_named("local") if kind == "local" else _remote(root, python)
    used = []
    for name in ("first", "second"):
        with device.session(wait_s=0) as session:
            session.put(bundle, name)
            used.append(session.run(["build", name], timeout_s=100).result["timing_cache"])
    assert used == [False, True]
    [times] = root.rglob("timing-*.bin")
    assert times.parent.name == "timing"
    assert stat.S_IMODE(times.parent.stat().st_mode) == 0o700
    assert not [*root.rglob("engine.plan")]
