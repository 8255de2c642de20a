"""The CPUs: which there are, what kinds, which frequencies and governors they run at."""

from __future__ import annotations

from typing import Any

from .kernelfiles import Tree, numbers

_CPU = "/sys/devices/system/cpu"
_SAME_KIND = 0.9  # cores whose highest frequencies differ by less than a tenth are of one kind (favoured cores do)


def online(tree: Tree) -> list[int]:
    """The CPUs that are switched on."""
    listed = numbers(tree.text(f"{_CPU}/online"))
    return listed or [int(name[3:]) for name in tree.names(_CPU) if name.startswith("cpu") and name[3:].isdigit()]


def clusters(tree: Tree) -> list[dict[str, Any]]:
    """Kinds of cores, the smallest first: ``{cpus, capacity, max_freq_khz}``; empty where the kernel does not tell.

    Cores are told apart by ``cpu_capacity`` (1024 is the biggest), else by the lists of a hybrid x86 CPU, else by their
    highest frequency.
    """
    rows = [
        (cpu, tree.number(f"{_CPU}/cpu{cpu}/cpu_capacity"), tree.number(f"{_CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"))
        for cpu in online(tree)
    ]
    hybrid = [numbers(tree.text(f"/sys/devices/cpu_{kind}/cpus")) for kind in ("atom", "core")]
    if rows and all(capacity is not None for _, capacity, _ in rows):
        groups = _by_value({cpu: float(capacity or 0) for cpu, capacity, _ in rows}, 1.0)
    elif all(hybrid):
        groups = hybrid
    elif rows and all(highest for _, _, highest in rows):
        groups = _by_value({cpu: float(highest or 0) for cpu, _, highest in rows}, _SAME_KIND)
    else:
        return []
    capacities = {cpu: capacity for cpu, capacity, _ in rows}
    highests = {cpu: highest for cpu, _, highest in rows}
    return [
        {
            "cpus": group,
            "capacity": capacities.get(group[0]),
            "max_freq_khz": max((value for cpu in group if (value := highests.get(cpu))), default=None),
        }
        for group in groups
    ]


def _by_value(values: dict[int, float], same: float) -> list[list[int]]:
    groups: list[list[int]] = []
    level = 0.0
    for cpu in sorted(values, key=lambda cpu: (values[cpu], cpu)):
        if not groups or level < same * values[cpu]:
            groups.append([])
            level = values[cpu]
        groups[-1].append(cpu)
    return [sorted(group) for group in groups]


def smt(tree: Tree) -> bool | None:
    """Whether two or more hardware threads share a core."""
    active = tree.flag(f"{_CPU}/smt/active")
    if active is not None:
        return active
    siblings = [numbers(tree.text(f"{_CPU}/cpu{cpu}/topology/thread_siblings_list")) for cpu in online(tree)]
    return any(len(item) > 1 for item in siblings) if siblings and all(siblings) else None


def numa_nodes(tree: Tree) -> int | None:
    """Memory nodes, None where the kernel does not list them."""
    return sum(name[4:].isdigit() for name in tree.names("/sys/devices/system/node") if name[:4] == "node") or None


def governor(tree: Tree) -> str | None:
    """The frequency governor; where the CPUs differ, all of them joined by ``+``."""
    found = {tree.text(f"{_CPU}/cpu{cpu}/cpufreq/scaling_governor") for cpu in online(tree)} - {None, ""}
    return "+".join(sorted(name for name in found if name)) or None


def no_turbo(tree: Tree) -> bool | None:
    """Whether turbo (boost) frequencies are switched off."""
    off = tree.flag(f"{_CPU}/intel_pstate/no_turbo")
    if off is not None:
        return off
    boost = tree.flag(f"{_CPU}/cpufreq/boost")
    return None if boost is None else not boost


def frequency_paths(tree: Tree, wanted: list[int] | None = None) -> list[str]:
    """The readable ``scaling_cur_freq`` files, of these CPUs only where given."""
    chosen = online(tree) if wanted is None else wanted
    paths = [f"{_CPU}/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in chosen]
    return [path for path in paths if tree.number(path)]


def frequencies(tree: Tree) -> dict[str, int | None]:
    """``min`` and ``max`` that the governor may choose and the highest ``cur`` of all CPUs, in kHz."""

    def read(name: str) -> list[int]:
        found = (tree.number(f"{_CPU}/cpu{cpu}/cpufreq/{name}") for cpu in online(tree))
        return [value for value in found if value]

    return {
        "min": min(read("scaling_min_freq"), default=None),
        "max": max(read("scaling_max_freq"), default=None),
        "cur": max(read("scaling_cur_freq"), default=None),
    }
