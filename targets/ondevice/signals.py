"""Which signals of clock, throttling, temperature and power this platform has, and what they show now."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import cpus, nvml, sensors, thermal
from .kernelfiles import Tree, integer
from .programs import find_program, output_of

_CPU = "/sys/devices/system/cpu"
_HWMON = "/sys/class/hwmon"
_COOLING = "/sys/class/thermal"
_DEVFREQ = "/sys/class/devfreq"
_PI_FILE = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_TOOL = "vcgencmd"
_GPU_WORDS = ("gpu", "mali", "kgsl", "ga10b", "gv11b", "gp10b")
_SLOWING_WORDS = ("cpu", "gpu", "devfreq", "processor", "powerclamp", "throttle")
_NOW_BITS = 0xF  # get_throttled: under-voltage, frequency capped, throttled, soft temperature limit
_STICKY_SHIFT = 16  # the same four, "has occurred since boot"


class Signals(NamedTuple):
    """What can be read here; each list is empty where there is nothing.

    Attributes:
        tree: Where the files are.
        frequencies: Files with the current frequency of CPUs, kHz.
        gpu_frequencies: Files with the current frequency of embedded GPUs, Hz.
        temperatures: Files with temperatures.
        throttles: Name to files. Names end in ``_count`` (rises at every event; the files are summed) or ``_now`` (not
            0 while it is so; the highest of the files).
        pi: Where a Raspberry Pi's throttle bits are: ``file``, ``tool`` or None.
        sensors: Sensors of energy and power, the best first.
        unreadable: Sensors that are there but cannot be used.
        gpus: NVIDIA GPUs.
    """

    tree: Tree
    frequencies: list[str]
    gpu_frequencies: list[str]
    temperatures: list[str]
    throttles: dict[str, list[str]]
    pi: str | None
    sensors: list[sensors.Sensor]
    unreadable: list[sensors.Unreadable]
    gpus: list[nvml.Gpu]


def find(root: str = "/", watched_cpus: list[int] | None = None, *, drivers: bool = True) -> Signals:
    """Looks for every signal that any platform has; NVIDIA's driver is asked only where ``root`` is this machine.

    Args:
        root: Where /proc and /sys are.
        watched_cpus: The CPUs whose frequency counts; None for all.
        drivers: Whether to load the library of NVIDIA's driver.
    """
    tree = Tree(root)
    gpus = nvml.open_gpus() if drivers and nvml.is_present(tree) else []
    good, bad = sensors.find_sensors(tree, gpus)
    pi = None
    if integer_bits(tree.text(_PI_FILE)) is not None:
        pi = "file"
    elif find_program(tree, _PI_TOOL) and _pi_bits(tree, "tool") is not None:
        pi = "tool"
    return Signals(
        tree=tree,
        frequencies=cpus.frequency_paths(tree, watched_cpus),
        gpu_frequencies=_gpu_frequencies(tree),
        temperatures=thermal.temperature_paths(tree),
        throttles=_throttles(tree),
        pi=pi,
        sensors=good,
        unreadable=bad,
        gpus=gpus,
    )


def anything(root: str = "/") -> bool:
    """Whether there is something to sample while an engine runs; loads no driver into this process."""
    found = find(root, drivers=False)
    files = found.frequencies or found.gpu_frequencies or found.temperatures or found.throttles or found.sensors
    return bool(files or found.pi or nvml.is_present(found.tree))


def throttle(found: Signals, *, tools: bool = True) -> dict[str, int]:
    """Every throttle signal's value now.

    Names end in ``_count`` (rises at every event), ``_now`` (not 0 while it is so) or ``_since_boot`` (bits that stay).

    Args:
        found: The signals.
        tools: Whether to ask where asking starts another program.
    """
    values = {name: _combined(found.tree, name, paths) for name, paths in found.throttles.items()}
    if found.pi == "file" or (found.pi == "tool" and tools):
        bits = _pi_bits(found.tree, found.pi)
        if bits is not None:
            values["pi_now"] = bits & _NOW_BITS
            values["pi_since_boot"] = bits >> _STICKY_SHIFT & _NOW_BITS
    for gpu in found.gpus:
        values[f"gpu{gpu.number}_now"] = nvml.throttle_reasons(gpu)
    return {name: max(0, value) for name, value in sorted(values.items()) if value is not None}


def throttled(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of what shows throttling between two readings: counters that rose, new sticky bits, states that hold.

    A sticky bit that was set before says nothing about the time since; the bits that hold now do.
    """
    found = []
    for name, value in after.items():
        earlier = before.get(name, 0)
        if name.endswith("_now"):
            hit = value != 0 or earlier != 0
        elif name.endswith("_since_boot"):
            hit = value & ~earlier != 0
        else:
            hit = value > earlier
        found += [name] if hit else []
    return sorted(found)


def cpu_khz(found: Signals) -> int | None:
    """The highest current frequency of the watched CPUs: where the work is, the clock is up."""
    values = (found.tree.number(path) for path in found.frequencies)
    return max((value for value in values if value), default=None)


def gpu_khz(found: Signals) -> int | None:
    """The highest current frequency of the GPUs."""
    values = [(found.tree.number(path) or 0) // 1000 for path in found.gpu_frequencies]
    values += [nvml.sm_khz(gpu) or 0 for gpu in found.gpus]
    return max((value for value in values if value > 0), default=None)


def temperature_c(found: Signals) -> float | None:
    """The hottest temperature of the machine."""
    values = [thermal.hottest(found.tree, found.temperatures), *(nvml.temperature_c(gpu) for gpu in found.gpus)]
    return max((value for value in values if value is not None), default=None)


def firmware_khz(tree: Tree) -> int | None:
    """The ARM clock that a Raspberry Pi's firmware really measures (the kernel's figure is what it asked for)."""
    answer = output_of(tree, _PI_TOOL, "measure_clock", "arm") or ""
    hertz = integer(answer.partition("=")[2])
    return hertz // 1000 if hertz else None


def describe(found: Signals) -> list[dict[str, Any]]:
    """The sensors as facts: ``{kind, name, grade, readable, fix}``."""
    rows = [{"kind": s.kind, "name": s.name, "grade": s.grade, "readable": True, "fix": None} for s in found.sensors]
    return rows + [
        {"kind": "denied", "name": u.name, "grade": None, "readable": False, "fix": u.fix} for u in found.unreadable
    ]


def gpus(found: Signals) -> list[dict[str, Any]]:
    """The NVIDIA GPUs as facts."""
    return [nvml.describe(gpu) for gpu in found.gpus]


def integer_bits(text: str | None) -> int | None:
    """Bits written in hexadecimal, with or without ``0x``."""
    try:
        value = int(text or "", 16)
    except ValueError:
        return None
    return value if 0 <= value < 1 << 32 else None


def _pi_bits(tree: Tree, where: str) -> int | None:
    if where == "file":
        return integer_bits(tree.text(_PI_FILE))
    label, _, value = (output_of(tree, _PI_TOOL, "get_throttled") or "").partition("=")
    return integer_bits(value) if label == "throttled" else None


def _gpu_frequencies(tree: Tree) -> list[str]:
    names = [name for name in tree.names(_DEVFREQ) if any(word in name.lower() for word in _GPU_WORDS)]
    return [path for path in (f"{_DEVFREQ}/{name}/cur_freq" for name in names) if tree.number(path)]


def _throttles(tree: Tree) -> dict[str, list[str]]:
    """Counters of x86 CPUs, over-current events and alarms of boards, cooling devices that slow a processor down."""
    found: dict[str, list[str]] = {}
    packages = set()
    for cpu in cpus.online(tree):
        folder = f"{_CPU}/cpu{cpu}"
        found.setdefault("core_throttle_count", []).append(f"{folder}/thermal_throttle/core_throttle_count")
        package = tree.text(f"{folder}/topology/physical_package_id")
        if package not in packages:  # every CPU repeats its package's count
            packages.add(package)
            found.setdefault("package_throttle_count", []).append(f"{folder}/thermal_throttle/package_throttle_count")
    for chip in tree.names(_HWMON):
        for name in tree.names(f"{_HWMON}/{chip}"):
            path = f"{_HWMON}/{chip}/{name}"
            if name.startswith("oc") and name.endswith("_event_cnt"):
                found[f"{chip}_{name[:-4]}_count"] = [path]
            elif name.endswith(("_max_alarm", "_crit_alarm", "_lcrit_alarm")) and name.startswith(("curr", "in")):
                found[f"{chip}_{name}_now"] = [path]
    for name in tree.names(_COOLING):
        kind = (tree.text(f"{_COOLING}/{name}/type") or "") if name.startswith("cooling_device") else ""
        if any(word in kind.lower() for word in _SLOWING_WORDS) and "fan" not in kind.lower():
            found.setdefault(f"cooling_{kind}_now", []).append(f"{_COOLING}/{name}/cur_state")
    readable = {name: [path for path in paths if tree.number(path) is not None] for name, paths in found.items()}
    return {name: paths for name, paths in readable.items() if paths}


def _combined(tree: Tree, name: str, paths: list[str]) -> int | None:
    values = [value for path in paths if (value := tree.number(path)) is not None]
    if not values:
        return None
    return sum(values) if name.endswith("_count") else max(values)
