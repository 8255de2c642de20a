"""The CPU is read from the kernel, and what it says is never guessed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets import machine

X86 = (
    "processor\t: 0\nmodel name\t: A CPU @ 2.80GHz\nflags\t\t: fpu sse avx2 avx512_vnni\n\n"
    "processor\t: 1\nflags\t: fpu\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n"


@pytest.fixture(autouse=True)
def _uncached() -> Iterator[None]:
    for function in (machine.cpu_features, machine.cpu_model):
        function.cache_clear()
    yield
    for function in (machine.cpu_features, machine.cpu_model):
        function.cache_clear()


def _cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def read(self: Path, **_: object) -> str:
        assert str(self) == "/proc/cpuinfo"
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.parametrize(
    ("text", "features", "model"),
    [
        (X86, {"fpu", "sse", "avx2", "avx512_vnni"}, "A CPU @ 2.80GHz"),
        (ARM, {"fp", "asimd", "asimddp"}, "0xd0b"),
        ("", set(), "unknown"),
        (None, set(), "unknown"),
    ],
)
def test_features_and_model(text: str | None, features: set[str], model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first CPU's features and name, in x86 and Arm spelling; nothing where the kernel does not tell."""
    _cpuinfo(monkeypatch, text)
    assert machine.cpu_features() == features
    assert machine.cpu_model() == model


@pytest.mark.parametrize(
    ("said", "meant"),
    [("AMD64", "x86_64"), ("x86_64", "x86_64"), ("arm64", "aarch64"), ("aarch64", "aarch64"), ("riscv64", "riscv64")],
)
def test_architectures_have_one_name(said: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systems spell differently is one architecture."""
    monkeypatch.setattr(platform, "machine", lambda: said)
    assert machine.arch() == meant


@pytest.mark.parametrize(
    ("arch", "isa", "provided"),
    [("x86_64", [], True), ("x86_64", ["avx2"], True), ("x86_64", ["avx2", "amx_int8"], False), ("aarch64", [], False)],
)
def test_provides(arch: str, isa: list[str], *, provided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Architecture and every single feature must be there."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    _cpuinfo(monkeypatch, X86)
    assert machine.provides(arch, isa) is provided


def test_fingerprint_tells_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another CPU, number of CPUs, kernel, GPU or driver is another machine for measurements."""
    _cpuinfo(monkeypatch, X86)
    first = machine.fingerprint()
    monkeypatch.setattr("os.cpu_count", lambda: 97)
    second = machine.fingerprint()
    machine.cpu_model.cache_clear()
    _cpuinfo(monkeypatch, ARM)
    third = machine.fingerprint()
    monkeypatch.setattr(platform, "release", lambda: "99.1")
    fourth = machine.fingerprint()
    monkeypatch.setattr(machine, "accelerators", lambda: "driver 1; NVIDIA L4")
    assert len({first, second, third, fourth, machine.fingerprint()}) == 5
