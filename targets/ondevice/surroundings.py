"""What this machine really is: emulated, virtual, a container, Windows; and what its cgroup leaves of it."""

from __future__ import annotations

import struct

from .kernelfiles import Tree, integer

# ELF e_machine (System V ABI): programs of one family run on one CPU without emulation.
_FAMILY = {3: "x86", 62: "x86", 40: "arm", 183: "arm", 243: "riscv", 20: "ppc", 21: "ppc", 22: "s390"}
_ARCH_FAMILY = {"x86_64": "x86", "i386": "x86", "i686": "x86", "aarch64": "arm", "riscv64": "riscv", "s390x": "s390"}
_EMULATORS = ("qemu-", "box64", "box86", "fex", "rosetta")
_VIRTUAL_PRODUCTS = ("kvm", "virtual machine", "virtualbox", "vmware", "qemu", "hvm domu", "standard pc")
_CONTAINER_WORDS = ("docker", "kubepods", "containerd", "lxc", "libpod", "podman")


def emulated(tree: Tree, arch: str) -> bool | None:
    """Whether this process's instructions are emulated (qemu-user and the like).

    An emulator in user mode answers /proc/self/exe itself, with the program it emulates; the same link by way of the
    thread is the kernel's answer, and shows the emulator. Whole-machine emulation names itself in the CPU model.

    Args:
        tree: Where to read.
        arch: What uname says the machine is.
    """
    cpu = (tree.text("/proc/cpuinfo") or "").lower()
    if "qemu tcg cpu" in cpu or "virtualapple" in cpu:
        return True
    claimed = tree.link("/proc/self/exe")
    for thread in tree.names("/proc/self/task"):
        real = tree.link(f"/proc/self/task/{thread}/exe")
        if real is None:
            continue
        name = real.rpartition("/")[2].lower()
        if name.startswith(_EMULATORS) or (claimed is not None and claimed != real):
            return True
        family = _program_family(tree, f"/proc/self/task/{thread}/exe")
        wanted = _ARCH_FAMILY.get(arch, "arm" if arch.startswith("arm") else None)
        if family is None or wanted is None:
            return None
        return family != wanted
    return None


def _program_family(tree: Tree, name: str) -> str | None:
    try:
        with tree.path(name).open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != b"\x7fELF":  # noqa: PLR2004 - e_machine ends at byte 20
        return None
    return _FAMILY.get(struct.unpack("<H" if head[5] == 1 else ">H", head[18:20])[0])


def virtualised(tree: Tree, flags: set[str]) -> bool | None:
    """Whether a hypervisor is below; x86 CPUs say so in their flags, other machines in their firmware's tables."""
    if "hypervisor" in flags:
        return True
    product = " ".join(tree.text(f"/sys/class/dmi/id/{name}") or "" for name in ("product_name", "sys_vendor")).lower()
    if tree.text("/sys/hypervisor/type") or tree.exists("/proc/device-tree/hypervisor"):
        return True
    if any(word in product for word in _VIRTUAL_PRODUCTS):
        return True
    known = "fpu" in flags or bool(product.strip()) or tree.text("/proc/device-tree/model") is not None
    return False if known else None


def container(tree: Tree) -> bool | None:
    """Whether this is a container."""
    if any(tree.exists(name) for name in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")):
        return True
    groups = tree.text("/proc/self/cgroup")
    if groups is None:
        return None
    return any(word in groups for word in _CONTAINER_WORDS)


def wsl(tree: Tree) -> bool | None:
    """Whether this is Windows' Linux subsystem."""
    release = tree.text("/proc/sys/kernel/osrelease")
    return None if release is None else "microsoft" in release.lower()


def board(tree: Tree) -> str | None:
    """The board's or computer's name, from the device tree or the firmware."""
    return tree.text("/proc/device-tree/model") or tree.text("/sys/class/dmi/id/product_name") or None


def cgroup_cpu(tree: Tree) -> tuple[str | None, int | None]:
    """The tightest CPU quota that holds here, as ``quota period`` in microseconds or ``max``, and how often it bit.

    Reads cgroup v2 (``cpu.max``) and v1 (``cpu.cfs_quota_us``), from this process's group up to the root.
    """
    best: tuple[float, str, int | None] | None = None
    for folder in _cgroup_folders(tree):
        limit = tree.text(f"{folder}/cpu.max") or _quota_v1(tree, folder)
        if limit is None:
            continue
        quota, _, period = limit.partition(" ")
        width = (integer(quota) or 0) / max(1, integer(period) or 0) if quota != "max" else float("inf")
        if best is None or width < best[0]:
            best = (width, limit, _nr_throttled(tree, folder))
    return (None, None) if best is None else best[1:]


def _cgroup_folders(tree: Tree) -> list[str]:
    folders = []
    for line in (tree.text("/proc/self/cgroup") or "").split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            roots = [f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
        for root in roots:
            folders += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return folders


def _quota_v1(tree: Tree, folder: str) -> str | None:
    quota, period = tree.number(f"{folder}/cpu.cfs_quota_us"), tree.number(f"{folder}/cpu.cfs_period_us")
    if quota is None or period is None:
        return None
    return f"{quota if quota > 0 else 'max'} {period}"


def _nr_throttled(tree: Tree, folder: str) -> int | None:
    for line in (tree.text(f"{folder}/cpu.stat") or "").split("\n"):
        name, _, value = line.partition(" ")
        if name == "nr_throttled":
            return integer(value)
    return None
