"""Which CPUs `big`, `little` and lists name, read from copies of what kernels show."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.ondevice.affinity import cpus_of, parse_cpus, pin
from targets.ondevice.failure import BAD_INPUT, DEVICE, Failure

if TYPE_CHECKING:
    from pathlib import Path

HERE = sorted(os.sched_getaffinity(0))


def _tree(root: Path, name: str, values: list[int]) -> str:
    for cpu, value in enumerate(values):
        path = root / f"sys/devices/system/cpu/cpu{cpu}" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    (root / "sys/devices/system/cpu/online").write_text(f"0-{len(values) - 1}\n")
    return str(root)


@pytest.mark.parametrize(
    ("name", "values", "big", "little"),
    [
        ("cpu_capacity", [446, 446, 1024, 1024], [2, 3], [0, 1]),
        ("cpu_capacity", [1024, 250, 250, 700], [0], [1, 2]),
        ("cpufreq/cpuinfo_max_freq", [1800000] * 4 + [2400000] * 2, [4, 5], [0, 1, 2, 3]),
    ],
)
def test_clusters_are_known_by_capacity_or_frequency(
    tmp_path: Path, name: str, values: list[int], big: list[int], little: list[int]
) -> None:
    """`big` is the cluster of the highest capacity (else frequency), `little` that of the lowest."""
    root = _tree(tmp_path, name, values)
    assert cpus_of("big", root) == big
    assert cpus_of("little", root) == little


@pytest.mark.parametrize("values", [[1024, 1024], []])
def test_no_clusters_is_an_error(tmp_path: Path, values: list[int]) -> None:
    """Where all CPUs are of one kind, or the kernel does not tell, `little` is refused, never taken as all."""
    root = _tree(tmp_path, "cpu_capacity", values) if values else str(tmp_path)
    for which in ("big", "little"):
        with pytest.raises(Failure) as caught:
            cpus_of(which, root)
        assert caught.value.exit_code == DEVICE


def test_a_cpu_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A list with one absent CPU is refused as a whole, and the absent one named."""
    with pytest.raises(Failure, match="cannot run on CPU 0, 7") as caught:
        cpus_of("0,7", _tree(tmp_path, "cpu_capacity", [1024] * 4))
    assert caught.value.exit_code == DEVICE
    assert "no CPU 7" in caught.value.why


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "3-2", "0,,1", "0-99999", "BIG", "0;1", "0.5"])
def test_what_is_no_list_is_bad_input(text: str) -> None:
    """Anything but default, big, little or a list of CPUs is bad input, and nothing of it is used."""
    with pytest.raises(Failure) as caught:
        cpus_of(text)
    assert caught.value.exit_code == BAD_INPUT


@given(st.sets(st.integers(0, 63), min_size=1))
def test_lists_are_read_as_written(cpus: set[int]) -> None:
    """Property: a list of single CPUs, and the same list in ranges, name the same CPUs."""
    assert parse_cpus(",".join(map(str, cpus))) == sorted(cpus)
    ranges = ",".join(f"{cpu}-{cpu + 1}" for cpu in cpus)
    assert parse_cpus(ranges) == sorted(cpus | {cpu + 1 for cpu in cpus})


def test_pinning_holds_for_the_process() -> None:
    """After pinning the kernel itself says that the process may use these CPUs only; `default` changes nothing."""
    code = (
        "import os; from targets.ondevice.affinity import pin; before = os.sched_getaffinity(0);"
        "assert pin('default') is None and os.sched_getaffinity(0) == before;"
        f"assert pin('{HERE[-1]}') == [{HERE[-1]}] == sorted(os.sched_getaffinity(0))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_cpu_that_the_kernel_does_not_give_is_refused(tmp_path: Path) -> None:
    """CPUs that are listed but that the kernel does not grant end in an error, not in fewer CPUs."""
    root = _tree(tmp_path, "cpu_capacity", [1024] * 900)
    code = (
        "import sys; from targets.ondevice.affinity import pin; from targets.ondevice.failure import Failure\n"
        f"try: pin('{HERE[0]},890', {root!r})\nexcept Failure as failure: sys.exit(failure.exit_code)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == DEVICE


def test_default_needs_nothing(tmp_path: Path) -> None:
    """`default` works where nothing can be read."""
    assert pin("default", str(tmp_path)) is None
