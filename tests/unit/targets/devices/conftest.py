"""Remote devices without a wire, and a private place for the locks of this machine."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def folder_transport() -> ModuleType:
    """The module of `FolderTransport`."""
    path = Path(__file__).with_name("folder_transport.py")
    spec = importlib.util.spec_from_file_location("folder_transport", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["folder_transport"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _private_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for, or disturbs, what else runs on this machine; none sees the user's devices."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(tmp_path_factory.mktemp("devices")))
