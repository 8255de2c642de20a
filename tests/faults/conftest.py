"""What the fault tests share: the tiny pipeline, the invariant checker, and strace where it works."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"faults_{name}", _HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def publisher() -> ModuleType:
    return _load("publisher")


@pytest.fixture(scope="session")
def invariants() -> ModuleType:
    return _load("invariants")


@pytest.fixture(scope="session")
def routes() -> ModuleType:
    return _load("routes")


@pytest.fixture(scope="session")
def publisher_argv() -> list[str]:
    return [sys.executable, str(_HERE / "publisher.py")]


@pytest.fixture(scope="session")
def strace() -> str:
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed: kills at system calls are NOT tested here")
    if subprocess.run([program, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here (ptrace is forbidden): kills at system calls are NOT tested here")
    return program
