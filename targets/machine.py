"""What CPU this process runs on, read from the kernel."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from targets.ondevice.accelerators import accelerators


def arch() -> str:
    """The instruction set architecture: ``x86_64`` or ``aarch64``, else what the kernel says."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def cpu_features() -> frozenset[str]:
    """CPU features as /proc/cpuinfo spells them; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


@functools.cache
def cpu_model() -> str:
    """The CPU's name for people; ``unknown`` where the kernel does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "CPU part"}:
            return value.strip()
    return "unknown"


def provides(required_arch: str, required_isa: Sequence[str]) -> bool:
    """Whether this machine has that architecture and all those CPU features."""
    return arch() == required_arch and cpu_features().issuperset(required_isa)


def fingerprint() -> str:
    """What measurements on this machine are bound to: architecture, CPU, number of CPUs, kernel, GPUs and drivers."""
    plain = f"{arch()} / {cpu_model()} / {os.cpu_count()} CPUs / {platform.system()} {platform.release()}"
    found = accelerators()
    return f"{plain} / {found}" if found else plain
