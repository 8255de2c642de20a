"""Which signals are found on which platform, what they show, and what counts as throttling between two readings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from targets.ondevice import sensors, signals
from targets.ondevice.kernelfiles import Tree

PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
RAPL = "sys/class/powercap"
HWMON = "sys/class/hwmon"
BATTERY = "sys/class/power_supply/BAT1"


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(str(root))


def package(number: int, name: str, energy: str = "123456", highest: str = "262143328850") -> dict[str, str]:
    """One RAPL domain."""
    zone = f"{RAPL}/intel-rapl:{number}"
    return {f"{zone}/name": name, f"{zone}/energy_uj": energy, f"{zone}/max_energy_range_uj": highest}


def rail(chip: int, channel: int, label: str, millivolts: int, milliamperes: int) -> dict[str, str]:
    """One channel of an INA3221."""
    folder = f"{HWMON}/hwmon{chip}"
    return {
        f"{folder}/name": "ina3221", f"{folder}/in{channel}_label": label,
        f"{folder}/in{channel}_input": str(millivolts), f"{folder}/curr{channel}_input": str(milliamperes),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        ({}, {}, []),
        ({"core_throttle_count": 7}, {"core_throttle_count": 7}, []),
        ({"core_throttle_count": 7}, {"core_throttle_count": 8}, ["core_throttle_count"]),
        ({"pi_now": 0, "pi_since_boot": 0b0101}, {"pi_now": 0, "pi_since_boot": 0b0101}, []),
        ({"pi_now": 0, "pi_since_boot": 0b0001}, {"pi_now": 0, "pi_since_boot": 0b0101}, ["pi_since_boot"]),
        ({"pi_now": 0, "pi_since_boot": 0b0101}, {"pi_now": 4, "pi_since_boot": 0b0101}, ["pi_now"]),
        ({"cooling_cpufreq_now": 2}, {"cooling_cpufreq_now": 0}, ["cooling_cpufreq_now"]),
        ({"gpu0_now": 0}, {"gpu0_now": 0x40}, ["gpu0_now"]),
        ({}, {"oc1_event_count": 1}, ["oc1_event_count"]),
    ],
)
def test_throttling_is_what_changed_or_holds(before: dict[str, int], after: dict[str, int], events: list[str]) -> None:
    """Counters count by their rise, sticky bits by the new ones, states by holding at either end."""
    assert signals.throttled(before, after) == events


def test_an_old_under_voltage_does_not_accuse_a_new_run(tmp_path: Path) -> None:
    """A bit that says 'since boot' before the run is no event; the same bit new after it is one."""
    found = signals.find(plant(tmp_path, {PI: "0x10000\n"}).root)
    before = signals.throttle(found)
    assert signals.throttled(before, signals.throttle(found)) == []
    plant(tmp_path, {PI: "0x50000\n"})
    assert signals.throttled(before, signals.throttle(found)) == ["pi_since_boot"]


@pytest.mark.parametrize(
    "files",
    [
        {PI: "0x0"},
        {"sys/class/thermal/thermal_zone0/temp": "40000"},
        {"sys/devices/system/cpu/online": "0", "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1000000"},
        {"sys/class/devfreq/17000000.gpu/cur_freq": "306000000"},
        package(0, "package-0"),
    ],
)
def test_any_single_signal_is_worth_sampling(tmp_path: Path, files: Mapping[str, str]) -> None:
    """One readable signal is enough; an empty tree, or one with garbage in that file, has none."""
    assert signals.anything(plant(tmp_path / "good", files).root)
    assert not signals.anything(plant(tmp_path / "bad", dict.fromkeys(files, "?")).root)
    assert not signals.anything(str(tmp_path / "empty"))


def test_only_the_watched_cpus_count_for_the_clock(tmp_path: Path) -> None:
    """A fast core outside the affinity does not hide a slow one inside it."""
    cpu = "sys/devices/system/cpu"
    tree = plant(tmp_path, {
        f"{cpu}/online": "0-1", f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "600000",
        f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "2400000",
    })  # fmt: skip
    assert signals.cpu_khz(signals.find(tree.root)) == 2400000
    assert signals.cpu_khz(signals.find(tree.root, [0])) == 600000


def test_the_board_rail_is_preferred_and_its_power_is_volts_times_amperes(tmp_path: Path) -> None:
    """VDD_IN alone is the board (grade B): 5.0 V x 1.2 A = 6 W; the chip's own sum channel is no rail."""
    tree = plant(tmp_path, {
        **rail(3, 1, "VDD_IN", 5000, 1200), **rail(3, 2, "VDD_CPU_GPU_CV", 5000, 400),
        **rail(3, 7, "sum of shunt voltages", 1, 1), **package(0, "package-0"),
    })  # fmt: skip
    good, bad = sensors.find_sensors(tree, [])
    assert [(item.grade, item.name) for item in good] == [("B", "INA3221 VDD_IN"), ("C", "RAPL package-0")]
    assert sensors.read(tree, good[0]) == (6_000_000,)
    assert bad == []


def test_rails_without_a_total_are_summed_and_graded_lower(tmp_path: Path) -> None:
    """A board whose chips show parts only: all parts together, grade C, across chips."""
    tree = plant(tmp_path, {**rail(1, 1, "VDD_GPU_SOC", 12000, 500), **rail(2, 1, "VIN_SYS_5V0", 5000, 100)})
    (sensor,), _ = sensors.find_sensors(tree, [])
    assert (sensor.grade, sensor.counter) == ("C", False)
    assert sum(sensors.read(tree, sensor) or ()) == 6_500_000


def test_the_older_drivers_rails_are_read_in_milliwatts(tmp_path: Path) -> None:
    """JetPack 4 shows power directly, below the i2c driver."""
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    tree = plant(tmp_path, {f"{folder}/rail_name_0": "POM_5V_IN", f"{folder}/in_power0_input": "2345"})
    (sensor,), _ = sensors.find_sensors(tree, [])
    assert (sensor.name, sensor.grade) == ("INA3221 POM_5V_IN", "B")
    assert sensors.read(tree, sensor) == (2_345_000,)


def test_the_platform_counter_replaces_the_packages_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    """Psys includes the packages; the memory-mapped twin and sub-domains are never added."""
    twin = {f"{RAPL}/intel-rapl-mmio:0/{key}": value for key, value in
            (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "9"))}  # fmt: skip
    core = {f"{RAPL}/intel-rapl:0:0/name": "core", f"{RAPL}/intel-rapl:0:0/energy_uj": "5"}
    two = {**package(0, "package-0", "100"), **package(1, "package-1", "200"), **twin, **core}
    tree = plant(tmp_path / "server", two)
    (sensor,), _ = sensors.find_sensors(tree, [])
    assert (sensor.name, sensor.wraps) == ("RAPL package-0+package-1", (262143328850, 262143328850))
    assert sensors.read(tree, sensor) == (100, 200)
    tree = plant(tmp_path / "laptop", {**two, **package(2, "psys", "900")})
    (sensor,), _ = sensors.find_sensors(tree, [])
    assert (sensor.name, sensors.read(tree, sensor)) == ("RAPL psys", (900,))


def test_a_counter_for_root_only_gives_the_exact_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """energy_uj of mode 0400: no sensor, and the command that opens it, with the device's own path."""
    tree = plant(tmp_path, package(0, "package-0"))
    real = Path.open

    def refuse(self: Path, *arguments: str) -> object:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    good, (bad,) = sensors.find_sensors(tree, [])
    assert good == []
    assert bad.fix == "sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj"
    assert "only root may read" in bad.why


@pytest.mark.parametrize("energy", ["", "garbage", "-5x"])
def test_a_counter_with_garbage_is_no_sensor(tmp_path: Path, energy: str) -> None:
    """A file that holds no number, or a range that is missing, makes no sensor."""
    assert sensors.find_sensors(plant(tmp_path, package(0, "package-0", energy)), []) == ([], [])
    good, (bad,) = sensors.find_sensors(plant(tmp_path / "b", package(0, "package-0", highest="")), [])
    assert (good, bad.fix) == ([], "use an external meter")


@pytest.mark.parametrize(
    ("status", "extra", "usable"),
    [
        ("Discharging", {}, True),
        ("Charging", {}, False),
        ("Full", {}, False),
        ("Not charging", {}, False),
        ("Unknown", {}, False),
        ("Discharging", {"sys/class/power_supply/usb/type": "USB", "sys/class/power_supply/usb/online": "1"}, False),
    ],
)
def test_a_battery_measures_only_while_it_discharges(
    tmp_path: Path, status: str, extra: Mapping[str, str], *, usable: bool
) -> None:
    """Plugged in, the gauge shows the charger: the battery is then named as unusable, with what to do."""
    tree = plant(tmp_path, {
        f"{BATTERY}/type": "Battery", f"{BATTERY}/status": status, f"{BATTERY}/current_now": "-1500000",
        f"{BATTERY}/voltage_now": "4000000", **extra,
    })  # fmt: skip
    good, bad = sensors.find_sensors(tree, [])
    assert ([item.name for item in good], [item.name for item in bad]) == (
        (["battery BAT1"], []) if usable else ([], ["battery BAT1"])
    )
    if usable:
        assert sensors.read(tree, good[0]) == (6_000_000,)
        assert good[0].grade == "D"


def test_power_now_is_taken_before_current_times_voltage(tmp_path: Path) -> None:
    """Where the gauge gives power itself, that figure is used."""
    tree = plant(tmp_path, {
        f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Discharging", f"{BATTERY}/power_now": "7000000",
        f"{BATTERY}/current_now": "1", f"{BATTERY}/voltage_now": "1",
    })  # fmt: skip
    (sensor,), _ = sensors.find_sensors(tree, [])
    assert sensors.read(tree, sensor) == (7_000_000,)
