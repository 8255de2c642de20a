"""Which CPUs the measured process may use: all, those of the big or the little cluster, or a list."""

from __future__ import annotations

import os

from .cpus import clusters, online
from .failure import BAD_INPUT, DEVICE, Failure
from .kernelfiles import Tree


def pin(affinity: str, root: str = "/") -> list[int] | None:
    """Restricts this process, and all threads it will start, to some CPUs.

    Args:
        affinity: ``default`` changes nothing; ``big``, ``little``, or CPUs as in ``0,2-3``.
        root: Where /sys is read.

    Returns:
        The CPUs, ascending; None for ``default``.

    Raises:
        Failure: The text is not valid (3), a CPU does not exist or may not be used, or there is but one cluster (6).
    """
    if affinity == "default":
        return None
    cpus = cpus_of(affinity, root)
    if not hasattr(os, "sched_setaffinity"):
        raise Failure(DEVICE, "this system cannot pin a process to CPUs", "it is no Linux", "leave --affinity out")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise _refused(cpus, str(error)) from error
    if os.sched_getaffinity(0) != set(cpus):  # the kernel drops CPUs that a container may not use
        raise _refused(cpus, f"the kernel allows only {sorted(os.sched_getaffinity(0))} of them")
    return cpus


def cpus_of(affinity: str, root: str = "/") -> list[int]:
    """The CPUs that ``big``, ``little`` or a list names on this machine, ascending.

    Raises:
        Failure: As `pin`.
    """
    tree = Tree(root)
    if affinity in {"big", "little"}:
        return _cluster(affinity, tree)
    try:
        asked = parse_cpus(affinity)
    except ValueError:
        asked = []
    if not asked:
        raise Failure(
            BAD_INPUT, "the affinity is not valid", repr(affinity), "give default, big, little, or CPUs such as 0,2-3"
        )
    present = online(tree)
    absent = sorted(set(asked) - set(present)) if present else []
    if absent:
        raise _refused(asked, f"there is no CPU {', '.join(map(str, absent))}; online are {present}")
    return asked


def parse_cpus(text: str) -> list[int]:
    """The CPUs of a list in the kernel's form (``0,2-3``), ascending.

    Raises:
        ValueError: It is no such list.
    """
    found: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else []:
        low, dash, high = part.partition("-")
        first, last = int(low), int(high if dash else low)
        if not 0 <= first <= last < 4096:  # noqa: PLR2004 - more CPUs than any kernel is built for
            raise ValueError(part)
        found.update(range(first, last + 1))
    return sorted(found)


def _cluster(which: str, tree: Tree) -> list[int]:
    found = clusters(tree)
    if not found:
        why = "the kernel tells neither the capacity nor the highest frequency of each CPU"
        raise Failure(DEVICE, f"this device's {which} CPUs are not known", why, "name the CPUs, such as 0,2-3")
    if len(found) == 1:
        why = "its CPUs are all of one kind: {}".format(found[0]["cpus"])
        raise Failure(DEVICE, f"this device has no {which} CPUs", why, "leave --affinity out, or name the CPUs")
    return list(found[-1 if which == "big" else 0]["cpus"])


def _refused(cpus: list[int], why: str) -> Failure:
    return Failure(DEVICE, f"cannot run on CPU {', '.join(map(str, cpus))}", why, "name CPUs that `facts` shows")
