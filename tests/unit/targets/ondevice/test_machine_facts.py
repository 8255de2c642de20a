"""The facts of every kind of platform, read from fake trees; what is absent is None."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from targets.ondevice import cpus
from targets.ondevice.kernelfiles import Tree
from targets.ondevice.system import cpu_pressure, machine_facts, steal_ticks

CPU = "sys/devices/system/cpu"
SUPPLY = "sys/class/power_supply"
ZONE = "sys/class/thermal/thermal_zone"
EVERY_KEY = {
    "transport", "arch", "cpu_model", "board", "isa", "cpu_features", "cores", "usable_cores", "smt", "numa_nodes",
    "clusters", "mem_total_bytes", "mem_available_bytes", "swap_total_bytes", "swap_used_bytes", "virtualised",
    "emulated", "container", "wsl", "cgroup_cpu_max", "cgroup_nr_throttled", "governor", "no_turbo", "freq_khz",
    "temp_c", "thermal_critical", "throttle", "power_mode", "ac_power", "battery_pct", "charging", "sensors", "gpu",
    "os", "kernel", "boot_id", "python", "psi_cpu_some_avg10", "loadavg_1min", "clock", "malloc_env", "fingerprint",
    "accelerators",
}  # fmt: skip


def plant(root: Path, files: Mapping[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def tool(root: Path, name: str, script: str) -> None:
    """A maker's program in the tree."""
    path = root / "usr/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


LAPTOP = {
    "proc/cpuinfo": "processor : 0\nmodel name : Some CPU @ 2 GHz\nflags : fpu avx2 fma avx_vnni\n",
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB\nSwapTotal: 500 kB\nSwapFree: 200 kB\n",
    "proc/sys/kernel/osrelease": "6.8.0-generic\n",
    "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
    "proc/pressure/cpu": "some avg10=7.25 avg60=1.00 avg300=0.00 total=1\n",
    "proc/loadavg": "1.50 1.00 0.50 1/100 1234\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 88 0 0\n",
    "etc/os-release": 'NAME=x\nPRETTY_NAME="Some Linux 12"\n',
    f"{CPU}/online": "0-3\n",
    f"{CPU}/smt/active": "1\n",
    f"{CPU}/intel_pstate/no_turbo": "0\n",
    "sys/devices/cpu_core/cpus": "0-1\n",
    "sys/devices/cpu_atom/cpus": "2-3\n",
    "sys/devices/system/node/node0/cpulist": "0-3\n",
    **{
        f"{CPU}/cpu{i}/cpufreq/{name}": str(value)
        for i in range(4)
        for name, value in (
            ("cpuinfo_max_freq", 4700000 if i < 2 else 3500000), ("scaling_min_freq", 400000),
            ("scaling_max_freq", 4700000 if i < 2 else 3500000), ("scaling_cur_freq", 900000 + i),
        )
    },
    **{f"{CPU}/cpu{i}/cpufreq/scaling_governor": "powersave" for i in range(4)},
    f"{ZONE}0/temp": "45000\n",
    f"{ZONE}0/type": "x86_pkg_temp\n",
    f"{ZONE}0/trip_point_0_type": "critical\n",
    f"{ZONE}0/trip_point_0_temp": "105000\n",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "4\n",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "9\n",
    f"{CPU}/cpu1/thermal_throttle/package_throttle_count": "9\n",
    f"{CPU}/cpu0/topology/physical_package_id": "0\n",
    f"{CPU}/cpu1/topology/physical_package_id": "0\n",
    f"{SUPPLY}/AC/type": "Mains\n",
    f"{SUPPLY}/AC/online": "1\n",
    f"{SUPPLY}/BAT0/type": "Battery\n",
    f"{SUPPLY}/BAT0/status": "Charging\n",
    f"{SUPPLY}/BAT0/capacity": "81\n",
    f"{SUPPLY}/hidpp_battery_0/type": "Battery\n",
    f"{SUPPLY}/hidpp_battery_0/scope": "Device\n",
    f"{SUPPLY}/hidpp_battery_0/capacity": "3\n",
    "sys/firmware/acpi/platform_profile": "balanced\n",
}  # fmt: skip


def test_a_laptop_tells_all_it_knows(tmp_path: Path) -> None:
    """Every figure is the one in the tree, in the promised unit; a mouse's battery is not the laptop's."""
    facts = machine_facts(plant(tmp_path, LAPTOP))
    expected: dict[str, Any] = {
        "cpu_model": "Some CPU @ 2 GHz", "isa": ["avx2", "fma", "avx_vnni"],
        "cpu_features": ["avx2", "avx_vnni", "fma", "fpu"], "smt": True, "numa_nodes": 1, "no_turbo": False,
        "clusters": [
            {"cpus": [2, 3], "capacity": None, "max_freq_khz": 3500000},
            {"cpus": [0, 1], "capacity": None, "max_freq_khz": 4700000},
        ],
        "mem_total_bytes": 1024000, "mem_available_bytes": 614400, "swap_total_bytes": 512000,
        "swap_used_bytes": 307200, "virtualised": False, "governor": "powersave",
        "freq_khz": {"min": 400000, "max": 4700000, "cur": 900003}, "temp_c": 45.0, "thermal_critical": False,
        "throttle": {"core_throttle_count": 7, "package_throttle_count": 9}, "power_mode": "balanced",
        "ac_power": True, "battery_pct": 81, "charging": True, "os": "Some Linux 12", "kernel": "6.8.0-generic",
        "boot_id": "11111111-2222-3333-4444-555555555555", "psi_cpu_some_avg10": 7.25, "loadavg_1min": 1.5,
        "emulated": None, "container": None, "wsl": False, "gpu": [],
    }  # fmt: skip
    assert {key: facts[key] for key in expected} == expected
    assert set(facts) == EVERY_KEY
    assert steal_ticks(str(tmp_path)) == 88


def test_a_raspberry_pi_tells_its_throttle_bits_and_its_true_clock(tmp_path: Path) -> None:
    """get_throttled is split into what holds now and what happened since boot; the firmware's clock is believed."""
    root = plant(tmp_path, {
        "proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimddp\nModel : Raspberry Pi 5 Model B Rev 1.0\n",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        f"{CPU}/online": "0-3", f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "2400000", f"{ZONE}0/temp": "61350",
    })  # fmt: skip
    tool(
        tmp_path,
        "vcgencmd",
        'case "$1" in get_throttled) echo throttled=0x50004;; *) echo "frequency(0)=1500345728";; esac',
    )
    facts = machine_facts(root)
    assert facts["throttle"] == {"pi_now": 4, "pi_since_boot": 5}
    assert facts["freq_khz"]["cur"] == 1500345
    assert (facts["board"], facts["isa"]) == ("Raspberry Pi 5 Model B Rev 1.0", ["asimd", "asimddp"])
    plant(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "20002\n"})
    assert machine_facts(root)["throttle"] == {"pi_now": 2, "pi_since_boot": 2}


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo throttled=zz", ":"])
def test_a_pi_tool_that_fails_says_nothing(tmp_path: Path, script: str) -> None:
    """A tool that fails or babbles gives no bits, and no bits are not 'all is well'."""
    tool(tmp_path, "vcgencmd", script)
    facts = machine_facts(str(tmp_path))
    assert facts["throttle"] == {}
    assert facts["freq_khz"]["cur"] is None


def test_a_jetson_tells_mode_events_alarms_and_rails(tmp_path: Path) -> None:
    """nvpmodel, over-current events, rail alarms and the total rail are found; the constant PMIC zone is no heat."""
    hwmon = "sys/class/hwmon"
    root = plant(tmp_path, {
        f"{ZONE}0/type": "CPU-therm", f"{ZONE}0/temp": "50500", f"{ZONE}1/type": "PMIC-Die", f"{ZONE}1/temp": "100000",
        f"{hwmon}/hwmon1/name": "soctherm_oc", f"{hwmon}/hwmon1/oc1_event_cnt": "2",
        f"{hwmon}/hwmon3/name": "ina3221", f"{hwmon}/hwmon3/in1_label": "VDD_IN", f"{hwmon}/hwmon3/in1_input": "5000",
        f"{hwmon}/hwmon3/curr1_input": "1200", f"{hwmon}/hwmon3/curr1_max_alarm": "1",
        "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0", "sys/class/thermal/cooling_device0/cur_state": "2",
        "sys/class/thermal/cooling_device1/type": "pwm-fan", "sys/class/thermal/cooling_device1/cur_state": "3",
    })  # fmt: skip
    tool(tmp_path, "nvpmodel", "printf 'NV Fan Mode:quiet\\nNV Power Mode: 15W\\n2\\n'")
    facts = machine_facts(root)
    assert facts["power_mode"] == "15W"
    assert facts["temp_c"] == 50.5
    assert facts["throttle"] == {
        "cooling_cpufreq-cpu0_now": 2,
        "hwmon1_oc1_event_count": 2,
        "hwmon3_curr1_max_alarm_now": 1,
    }
    assert facts["sensors"] == [{"kind": "ina", "name": "INA3221 VDD_IN", "grade": "B", "readable": True, "fix": None}]


def test_nvpmodel_that_cannot_be_asked_leaves_its_stored_mode(tmp_path: Path) -> None:
    """Without the tool the stored mode is read; garbage in it is no mode."""
    assert machine_facts(plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002"}))["power_mode"] == "nvpmodel 2"
    assert machine_facts(plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:abc"}))["power_mode"] is None


def test_a_phone_tells_clusters_charge_and_the_power_it_hangs_on(tmp_path: Path) -> None:
    """Capacities give the clusters, smallest first; a full battery on USB is powered, not charging."""
    facts = machine_facts(plant(tmp_path, {
        f"{CPU}/online": "0-7",
        **{f"{CPU}/cpu{i}/cpu_capacity": "250" if i < 4 else "760" if i < 7 else "1024" for i in range(8)},
        f"{SUPPLY}/usb/type": "USB_PD", f"{SUPPLY}/usb/online": "1",
        f"{SUPPLY}/battery/type": "Battery", f"{SUPPLY}/battery/status": "Full", f"{SUPPLY}/battery/capacity": "100",
        f"{SUPPLY}/battery/current_now": "1000", f"{SUPPLY}/battery/voltage_now": "4400000",
        f"{ZONE}0/type": "soc", f"{ZONE}0/temp": "310", f"{ZONE}1/type": "cpu", f"{ZONE}1/temp": "38000",
    }))  # fmt: skip
    assert [item["cpus"] for item in facts["clusters"]] == [[0, 1, 2, 3], [4, 5, 6], [7]]
    assert [item["capacity"] for item in facts["clusters"]] == [250, 760, 1024]
    assert (facts["ac_power"], facts["charging"], facts["battery_pct"], facts["temp_c"]) == (True, False, 100, 38.0)


def test_an_empty_tree_knows_nothing_and_claims_nothing(tmp_path: Path) -> None:
    """No /proc and no /sys: every machine fact is None or empty, and the document is still plain JSON."""
    facts = machine_facts(str(tmp_path))
    silent = EVERY_KEY - {
        "transport", "arch", "cpu_model", "cores", "usable_cores", "os", "kernel", "python", "clock", "malloc_env",
        "fingerprint", "freq_khz",
    }  # fmt: skip
    assert {key for key in silent if facts[key] not in (None, [], {})} == set()
    assert facts["freq_khz"] == {"min": None, "max": None, "cur": None}
    json.dumps(facts, allow_nan=False)


def test_garbage_everywhere_is_absent_not_an_error(tmp_path: Path) -> None:
    """The same tree with every file turned into garbage gives the same keys, no figure and no exception."""
    facts = machine_facts(plant(tmp_path, dict.fromkeys(LAPTOP, "\x01 garbage nan")))
    figures = ("mem_total_bytes", "swap_used_bytes", "temp_c", "thermal_critical", "battery_pct", "no_turbo",
               "psi_cpu_some_avg10", "loadavg_1min", "ac_power")  # fmt: skip
    assert {key: facts[key] for key in figures} == dict.fromkeys(figures)
    assert facts["throttle"] == {}
    assert set(facts) == EVERY_KEY


def test_heat_near_the_critical_point_is_critical(tmp_path: Path) -> None:
    """Within five degrees of a critical trip point the device is critical, whatever other zones say."""
    hot = {**LAPTOP, f"{ZONE}0/temp": "101000", f"{ZONE}1/temp": "30000", f"{ZONE}1/type": "acpitz"}
    assert machine_facts(plant(tmp_path, hot))["thermal_critical"] is True


def test_favoured_cores_are_no_cluster_of_their_own(tmp_path: Path) -> None:
    """Cores whose highest clocks differ by a few percent are of one kind; an absent clock leaves the kinds unknown."""
    root = plant(tmp_path, {f"{CPU}/online": "0-2", **{
        f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq": str(khz) for i, khz in enumerate((5200000, 5300000, 5200000))
    }})  # fmt: skip
    assert [item["cpus"] for item in cpus.clusters(Tree(root))] == [[0, 1, 2]]
    (tmp_path / CPU / "cpu1/cpufreq/cpuinfo_max_freq").unlink()
    assert cpus.clusters(Tree(root)) == []


def test_differing_governors_are_all_named(tmp_path: Path) -> None:
    """One CPU on another governor is not hidden behind the first one's."""
    root = plant(tmp_path, {**LAPTOP, f"{CPU}/cpu3/cpufreq/scaling_governor": "performance"})
    assert cpus.governor(Tree(root)) == "performance+powersave"


def test_the_real_machine_answers(tmp_path: Path) -> None:
    """On the machine that runs the tests all keys are there and the fingerprint is stable."""
    first, second = machine_facts(), machine_facts("/")
    assert set(first) == EVERY_KEY
    assert first["fingerprint"] == second["fingerprint"]
    assert first["mem_total_bytes"] > 0
    assert first["kernel"] == platform.release()
    assert len(first["boot_id"]) == 36
    assert first["wsl"] is not None
    assert cpu_pressure(str(tmp_path)) is None
