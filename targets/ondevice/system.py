"""What the kernel says about this machine and this process; absent is None, never a guess."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from typing import Any

from . import cpus, signals, surroundings, thermal
from .accelerators import accelerators
from .kernelfiles import Tree, integer
from .supply import power_mode, read_supply

_ISA = (
    "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
    "asimd", "asimddp", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip


def read_text(path: str) -> str | None:
    """A small kernel file's text, or None where it cannot be read."""
    return Tree().text(path)


def cpu_pressure(root: str = "/") -> float | None:
    """CPU pressure, percent of the last 10 s in which something waited for a CPU (PSI some avg10)."""
    for field in (Tree(root).text("/proc/pressure/cpu") or "").split():
        if field.startswith("avg10="):
            return _decimal(field[6:])
    return None


def involuntary_switches() -> int | None:
    """How often the kernel took the CPU away from this process so far."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def steal_ticks(root: str = "/") -> int | None:
    """Clock ticks that a hypervisor gave to others while this machine wanted to run."""
    fields = (Tree(root).text("/proc/stat") or "").split("\n")[0].split()
    return integer(fields[8]) if len(fields) > 8 else None  # noqa: PLR2004 - field 8 of the "cpu" line, proc(5)


def machine_facts(root: str = "/") -> dict[str, Any]:
    """The device, as `facts` reports it; frequencies in kHz, sizes in bytes, temperatures in degrees Celsius.

    Args:
        root: Where /proc, /sys and /etc are read; what only a call can tell (uname, affinity) comes from the process.
    """
    tree = Tree(root)
    info = _cpuinfo(tree)
    flags = set(info.get("flags", info.get("Features", "")).split())
    memory = _memory(tree)
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    swap, free = memory.get("SwapTotal"), memory.get("SwapFree")
    quota, bites = surroundings.cgroup_cpu(tree)
    supply = read_supply(tree)
    frequency = cpus.frequencies(tree)
    found = signals.find(root)
    facts = {
        "transport": "local",
        "arch": arch,
        "cpu_model": info.get("model name") or info.get("Model") or info.get("CPU part") or "unknown",
        "board": surroundings.board(tree),
        "isa": [name for name in _ISA if name in flags],
        "cpu_features": sorted(flags),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "smt": cpus.smt(tree),
        "numa_nodes": cpus.numa_nodes(tree),
        "clusters": cpus.clusters(tree),
        "mem_total_bytes": memory.get("MemTotal"),
        "mem_available_bytes": memory.get("MemAvailable"),
        "swap_total_bytes": swap,
        "swap_used_bytes": None if swap is None or free is None else swap - free,
        "virtualised": surroundings.virtualised(tree, flags),
        "emulated": surroundings.emulated(tree, arch),
        "container": surroundings.container(tree),
        "wsl": surroundings.wsl(tree),
        "cgroup_cpu_max": quota,
        "cgroup_nr_throttled": bites,
        "governor": cpus.governor(tree),
        "no_turbo": cpus.no_turbo(tree),
        "freq_khz": {**frequency, "cur": signals.firmware_khz(tree) or frequency["cur"]},
        "temp_c": thermal.hottest(tree, found.temperatures),
        "thermal_critical": thermal.critical(tree),
        "throttle": signals.throttle(found),
        "power_mode": power_mode(tree),
        "ac_power": supply.ac_power,
        "battery_pct": supply.battery_pct,
        "charging": supply.charging,
        "sensors": signals.describe(found),
        "gpu": signals.gpus(found),
        "accelerators": accelerators(root) or None,
        "os": _os_name(tree),
        "kernel": tree.text("/proc/sys/kernel/osrelease") or platform.release(),
        "boot_id": tree.text("/proc/sys/kernel/random/boot_id") or None,
        "python": platform.python_version(),
        "psi_cpu_some_avg10": cpu_pressure(root),
        "loadavg_1min": _decimal((tree.text("/proc/loadavg") or "").partition(" ")[0]),
        "clock": {"realtime_s": time.time(), "monotonic_s": time.monotonic()},
        "malloc_env": {name: os.environ[name] for name in sorted(os.environ) if name.startswith("MALLOC_")},
    }
    bound = ["arch", "cpu_model", "isa", "cores", "mem_total_bytes", "kernel"]
    bound += ["accelerators"] if facts["accelerators"] else []
    identity = "|".join(str(facts[key]) for key in bound)
    facts["fingerprint"] = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return facts


def _cpuinfo(tree: Tree) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (tree.text("/proc/cpuinfo") or "").split("\n"):
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _memory(tree: Tree) -> dict[str, int]:
    found = {}
    for line in (tree.text("/proc/meminfo") or "").split("\n"):
        name, _, value = line.partition(":")
        kilobytes = integer(value.split()[0]) if value.split() else None
        if kilobytes is not None:
            found[name] = kilobytes * 1024
    return found


def _decimal(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _os_name(tree: Tree) -> str:
    for line in (tree.text("/etc/os-release") or "").split("\n"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return sys.platform
