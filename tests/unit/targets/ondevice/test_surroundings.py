"""What the machine really is, from fake trees: emulated, virtual, container, Windows, limited by a cgroup."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from targets.ondevice import surroundings
from targets.ondevice.kernelfiles import Tree


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(str(root))


def process(root: Path, *, claimed: str, real: str, machine: int) -> Tree:
    """A /proc/self whose own link says ``claimed`` and whose thread's says ``real``, an ELF file of ``machine``."""
    program = root / "bin" / real
    program.parent.mkdir(parents=True)
    program.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + struct.pack("<H", machine) + bytes(44))
    (root / "bin" / claimed).touch()
    thread = root / "proc/self/task/17"
    thread.mkdir(parents=True)
    (thread / "exe").symlink_to(program)
    (root / "proc/self/exe").symlink_to(root / "bin" / claimed)
    return Tree(str(root))


@pytest.mark.parametrize(
    ("claimed", "real", "machine", "arch", "expected"),
    [
        ("python3", "python3", 62, "x86_64", False),
        ("python3", "python3", 183, "aarch64", False),
        ("python3", "python3", 40, "aarch64", False),  # 32-bit programs on a 64-bit Raspberry Pi
        ("python3", "qemu-aarch64-static", 62, "aarch64", True),
        ("python3", "qemu-x86_64", 62, "x86_64", True),
        ("python3", "python3", 62, "aarch64", True),
        ("python3", "box64", 183, "x86_64", True),
        ("python3", "memcheck-amd64-linux", 62, "x86_64", True),
        ("python3", "python3", 9999, "aarch64", None),
        ("python3", "python3", 62, "loongarch64", None),
    ],
)
def test_an_emulator_shows_by_its_own_program(
    tmp_path: Path, claimed: str, real: str, machine: int, arch: str, *, expected: bool | None
) -> None:
    """The thread's link betrays an emulator by name, by differing from the process's own link, or by its CPU family."""
    assert surroundings.emulated(process(tmp_path, claimed=claimed, real=real, machine=machine), arch) is expected


def test_a_machine_whose_processes_cannot_be_seen_is_not_called_native(tmp_path: Path) -> None:
    """Without /proc nothing is said; a CPU that calls itself TCG or Apple's translator is emulated."""
    assert surroundings.emulated(Tree(str(tmp_path)), "aarch64") is None
    assert surroundings.emulated(plant(tmp_path, {"proc/cpuinfo": "model name : QEMU TCG CPU version 2.5+"}), "x86_64")
    assert surroundings.emulated(plant(tmp_path, {"proc/cpuinfo": "vendor_id : VirtualApple"}), "x86_64")


def test_this_test_run_is_not_emulated() -> None:
    """The interpreter that runs the tests is known to be native on Linux."""
    import platform

    assert surroundings.emulated(Tree("/"), platform.machine()) is False


@pytest.mark.parametrize(
    ("files", "flags", "expected"),
    [
        ({}, {"fpu", "hypervisor"}, True),
        ({}, {"fpu"}, False),
        ({}, set(), None),
        ({"proc/device-tree/model": "Raspberry Pi 5 Model B\0"}, {"asimd"}, False),
        ({"proc/device-tree/hypervisor": "kvm"}, {"asimd"}, True),
        ({"sys/class/dmi/id/product_name": "KVM Virtual Machine"}, {"asimd"}, True),
        ({"sys/class/dmi/id/product_name": "ThinkPad X1"}, set(), False),
        ({"sys/hypervisor/type": "xen"}, set(), True),
    ],
)
def test_virtual_machines_are_known_by_flag_or_firmware(
    tmp_path: Path, files: Mapping[str, str], flags: set[str], *, expected: bool | None
) -> None:
    """True and False need evidence; without any the answer is None."""
    assert surroundings.virtualised(plant(tmp_path, files), flags) is expected


def test_containers_and_windows_are_known_and_otherwise_unknown(tmp_path: Path) -> None:
    """Marker files, cgroup names and the kernel's name decide; without /proc the answer is None."""
    empty = Tree(str(tmp_path / "empty"))
    assert (surroundings.container(empty), surroundings.wsl(empty)) == (None, None)
    bare = plant(tmp_path / "bare", {"proc/self/cgroup": "0::/user.slice\n", "proc/sys/kernel/osrelease": "6.8.0\n"})
    assert (surroundings.container(bare), surroundings.wsl(bare)) == (False, False)
    assert surroundings.container(plant(tmp_path / "docker", {".dockerenv": ""})) is True
    assert surroundings.container(plant(tmp_path / "pod", {"proc/self/cgroup": "0::/kubepods.slice/a\n"})) is True
    wsl = plant(tmp_path / "wsl", {"proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2\n"})
    assert surroundings.wsl(wsl) is True


def test_the_tightest_quota_from_the_own_group_to_the_root_counts(tmp_path: Path) -> None:
    """A limit on a parent group holds for its children: it is found, with how often it bit."""
    tree = plant(tmp_path, {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/outer/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\n",
        "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
        "sys/fs/cgroup/outer/inner/cpu.stat": "nr_throttled 0\n",
    })  # fmt: skip
    assert surroundings.cgroup_cpu(tree) == ("50000 100000", 4)


def test_the_older_cgroup_files_are_read_too(tmp_path: Path) -> None:
    """Version 1: -1 is no limit, a quota is one; without any file there is no statement."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/job\n1:name=systemd:/x\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "20000",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.stat": "nr_periods 1\nnr_throttled 12",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    assert surroundings.cgroup_cpu(plant(tmp_path / "one", files)) == ("20000 100000", 12)
    files["sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us"] = "-1"
    assert surroundings.cgroup_cpu(plant(tmp_path / "two", files)) == ("max 100000", 12)
    assert surroundings.cgroup_cpu(Tree(str(tmp_path / "none"))) == (None, None)
