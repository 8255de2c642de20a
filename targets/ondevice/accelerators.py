"""Which GPUs and NPUs a machine has and which driver drives them, from kernel files: what results on them hold for."""

from __future__ import annotations

from .kernelfiles import Tree

_NVIDIA = "/proc/driver/nvidia"
_INTEL = "0x8086"
_CLASSES = {"drm": ("card", "renderD"), "accel": ("accel",)}


def accelerators(root: str = "/") -> str:
    """One line that changes with the hardware or its driver; empty where there is none.

    NVIDIA's kernel module says its version and the GPUs' names; a Jetson's release file what drives its GPU and DLA;
    the driver of Intel's GPUs and NPUs is the kernel's.

    Args:
        root: Where /proc, /sys and /etc are read.
    """
    tree = Tree(root)
    return "; ".join([*_nvidia(tree), *_jetson(tree), *_intel(tree)])


def _nvidia(tree: Tree) -> list[str]:
    version = (tree.text(f"{_NVIDIA}/version") or "").partition("\n")[0]
    if not version:
        return []
    found = [" ".join(version.split())]
    for name in tree.names(f"{_NVIDIA}/gpus"):
        lines = (tree.text(f"{_NVIDIA}/gpus/{name}/information") or "").split("\n")
        found += [
            " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines) if key == "Model"
        ]
    return found


def _jetson(tree: Tree) -> list[str]:
    release = (tree.text("/etc/nv_tegra_release") or "").partition("\n")[0]
    return [f"{tree.text('/proc/device-tree/model') or 'Tegra'}, {release}"] if release else []


def _intel(tree: Tree) -> list[str]:
    found = set()
    for kind, prefixes in _CLASSES.items():
        for name in tree.names(f"/sys/class/{kind}"):
            device = f"/sys/class/{kind}/{name}/device"
            if name.startswith(prefixes) and tree.text(f"{device}/vendor") == _INTEL:
                found.add(f"Intel {kind} {tree.text(f'{device}/device')}")
    kernel = tree.text("/proc/sys/kernel/osrelease")
    return [f"{', '.join(sorted(found))}, kernel {kernel}"] if found else []
