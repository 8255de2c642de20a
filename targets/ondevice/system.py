"""What the kernel says about this machine and this process; absent is None, never a guess."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

_ISA = (
    "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
    "asimd", "asimddp", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip


def read_text(path: str) -> str | None:
    """A small kernel file's text, or None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def cpu_pressure() -> float | None:
    """CPU pressure, percent of the last 10 s in which something waited for a CPU (PSI some avg10)."""
    for field in (read_text("/proc/pressure/cpu") or "").split():
        if field.startswith("avg10="):
            return float(field[6:])
    return None


def involuntary_switches() -> int | None:
    """How often the kernel took the CPU away from this process so far."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def steal_ticks() -> int | None:
    """Clock ticks that a hypervisor gave to others while this machine wanted to run."""
    fields = (read_text("/proc/stat") or "").split("\n")[0].split()
    return int(fields[8]) if len(fields) > 8 else None  # noqa: PLR2004 - field 8 of the "cpu" line, proc(5)


def machine_facts() -> dict[str, Any]:
    """The device, as `facts` reports it; frequencies in kHz, sizes in bytes, temperature in degrees Celsius."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    frequency = "/sys/devices/system/cpu/cpu0/cpufreq/"
    facts = {
        "transport": "local",
        "arch": {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower()),
        "cpu_model": info.get("model name") or info.get("Model") or info.get("CPU part") or "unknown",
        "isa": [name for name in _ISA if name in flags],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "mem_total_bytes": _memory("MemTotal"),
        "mem_available_bytes": _memory("MemAvailable"),
        "virtualised": ("hypervisor" in flags) if flags else None,
        "container": os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"),  # noqa: PTH110
        "governor": read_text(frequency + "scaling_governor"),
        "freq_khz": {
            "min": _number(frequency + "scaling_min_freq"),
            "max": _number(frequency + "scaling_max_freq"),
            "cur": _number(frequency + "scaling_cur_freq"),
        },
        "temp_c": _temperature(),
        "battery_pct": _number("/sys/class/power_supply/BAT0/capacity"),
        "os": _os_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "psi_cpu_some_avg10": cpu_pressure(),
        "loadavg_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "malloc_env": {name: os.environ[name] for name in sorted(os.environ) if name.startswith("MALLOC_")},
    }
    identity = "|".join(str(facts[key]) for key in ("arch", "cpu_model", "isa", "cores", "mem_total_bytes", "kernel"))
    facts["fingerprint"] = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return facts


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (read_text("/proc/cpuinfo") or "").split("\n"):
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _memory(key: str) -> int | None:
    for line in (read_text("/proc/meminfo") or "").split("\n"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


def _number(path: str) -> int | None:
    text = read_text(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _temperature() -> float | None:
    milli = _number("/sys/class/thermal/thermal_zone0/temp")
    return None if milli is None else milli / 1000


def _os_name() -> str:
    for line in (read_text("/etc/os-release") or "").split("\n"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return sys.platform
