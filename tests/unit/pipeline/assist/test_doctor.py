"""What the doctor finds, and what it says to do."""

from __future__ import annotations

import shutil
from importlib import metadata
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pipeline.assist.doctor import Finding, examine
from targets import machine

if TYPE_CHECKING:
    from pathlib import Path


def finding(subject: str) -> Finding:
    return next(found for found in examine() if found.subject == subject)


def test_this_machine_is_well() -> None:
    """Every finding is ok where the tests run, and each subject comes once."""
    findings = examine()
    assert all(found.ok for found in findings), findings
    assert len({found.subject for found in findings}) == len(findings)


@pytest.mark.parametrize(("version", "ok"), [("2.9.1", False), ("2.10.0", True), ("3.0.0+cpu", True)])
def test_old_libraries_are_found(version: str, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a case
    """Versions are compared as numbers, not as text."""
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "torch" else real(name))
    assert finding("torch").ok is ok


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix is a command."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert not finding("onnx").ok
    assert finding("onnx").fix.startswith("pip install 'onnx>=")


def test_an_extra_that_is_not_there_is_a_note_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody must have every engine: the doctor says what to install for which purpose, and stays content."""
    real = metadata.version

    def version(name: str) -> str:
        if name in {"optuna", "openvino"}:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for subject, fix in (
        ("[search]", "pip install 'edgepress[search]'"),
        ("[openvino]", "pip install 'edgepress[openvino]'"),
        ("adb", "apt-get install adb"),
        ("ssh", "apt-get install openssh-client"),
    ):
        found = finding(subject)
        assert (found.ok, found.note, found.fix) == (True, True, fix)


def test_a_cpu_without_fast_int8_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a run, not after it: there float often ships."""
    monkeypatch.setattr(machine, "arch", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2"}))
    assert finding("cpu").note
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2", "avx_vnni"}))
    assert not finding("cpu").note


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ways out, which exist."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10))
    assert not finding("disk").ok
    assert "edgepress cache gc" in finding("disk").fix


def test_a_store_that_cannot_be_used_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file where the store must be is told, not raised."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "file"))
    assert not finding("store").ok
