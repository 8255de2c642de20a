"""What every test starts from: no telemetry, one torch thread, a store, a home of devices and a TMPDIR of its own."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("short", max_examples=40, deadline=None, derandomize=True)  # the long tests explore
settings.register_profile("long", max_examples=400, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's store."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session")
def own_temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TMPDIR of this worker: the lock of the local device lies there, so that workers need not wait for others."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(autouse=True)
def _own_places(own_temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's devices or another worker's lock."""
    monkeypatch.setenv("TMPDIR", str(own_temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(own_temporary))
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(own_temporary / "devices"))


@pytest.fixture(autouse=True)
def _arithmetic_stays() -> Iterator[None]:
    """A runtime that flushes subnormals may do so for the thread that opened it: not for ours."""
    yield
    assert math.ldexp(1.0, -1074) * 1.0 > 0.0, "this test left the flushing of subnormal numbers on"


@pytest.fixture
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parents[1]
