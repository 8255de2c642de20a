"""Memory of this process as the kernel counts it, in bytes; None where the kernel does not tell."""

from __future__ import annotations

from .system import read_text


def resident() -> int | None:
    """Resident memory now (VmRSS)."""
    return _status("VmRSS")


def peak() -> int | None:
    """The highest resident memory since the start or the last `reset_peak` (VmHWM)."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Sets the high-water mark back to the memory used now; False where the kernel does not allow it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:  # noqa: PTH123
            stream.write("5")
    except OSError:
        return False
    return True


def shares() -> dict[str, int | None]:
    """``pss``: what adding this process costs; ``uss``: what ending it frees."""
    fields: dict[str, int] = {}
    for line in (read_text("/proc/self/smaps_rollup") or "").split("\n"):
        words = line.split()
        if len(words) == 3 and words[2] == "kB":  # noqa: PLR2004 - "Pss:  123 kB"
            fields[words[0].rstrip(":")] = int(words[1]) * 1024
    if "Pss" not in fields:
        return {"pss": None, "uss": None}
    return {"pss": fields["Pss"], "uss": fields.get("Private_Clean", 0) + fields.get("Private_Dirty", 0)}


def _status(key: str) -> int | None:
    for line in (read_text("/proc/self/status") or "").split("\n"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None
