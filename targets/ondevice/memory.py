"""Memory of this process as the kernel counts it, in bytes; None where the kernel does not tell."""

from __future__ import annotations

from .failure import ENVIRONMENT, Failure
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


def swapped() -> int | None:
    """How much of this process lies in swap or zram now (VmSwap)."""
    return _status("VmSwap")


def faults() -> tuple[int | None, int | None]:
    """Page faults of this process so far: minor (no disk needed), major (read from disk)."""
    try:
        import resource
    except ImportError:
        return None, None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def limit(size_bytes: int | None) -> None:
    """Lets allocations fail beyond an address space of ``size_bytes``; None lifts the limit.

    Raises:
        Failure: This process already uses more, or the system has no such limit (5).
    """
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if size_bytes is None:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return
    used = _status("VmSize")
    if used is not None and used >= size_bytes:
        why = f"this program alone takes {used / 1e6:.0f} MB before it opens an engine"
        raise Failure(ENVIRONMENT, f"a limit of {size_bytes / 1e6:.0f} MB is too small", why, "raise the limit")
    if hard != resource.RLIM_INFINITY and hard < size_bytes:
        why = f"the limit of this system is {hard / 1e6:.0f} MB"
        raise Failure(ENVIRONMENT, f"cannot allow {size_bytes / 1e6:.0f} MB", why, "lower the limit to that")
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes, hard))  # soft, so that the sampler beside can lift it


def _status(key: str) -> int | None:
    for line in (read_text("/proc/self/status") or "").split("\n"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None
