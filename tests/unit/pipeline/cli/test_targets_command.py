"""The command `targets`: what it lists and shows, how it reports faults, and what a probe writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.targets import targets
from pipeline.probing.probe import ProbeOptions
from targets import machine
from targets.errors import InputError, UsageError
from targets.profile import load_profile, profile_names

BOARD = 'name = "board"\nextends = "raspberry-pi-5"\n'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


def _run(*words: str) -> Result:
    return CliRunner().invoke(targets, list(words))


def test_the_list_names_every_engine_in_order() -> None:
    """Promise: one line an engine: target, arch, engine, scheme, precisions."""
    done = _run("list")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["target", "arch", "engine", "scheme", "precisions"]
    assert {line[0] for line in lines[1:]} >= set(profile_names())
    at = next(index for index, line in enumerate(lines) if line[0] == "jetson-orin-nx-dla")
    assert lines[at][1:] == ["aarch64", "tensorrt", "trt", "fp32"]
    assert lines[at + 1] == ["tensorrt/dla", "trt", "fp16"]


def test_the_list_is_data_too() -> None:
    """Promise: `--json` has the same, with the descriptions."""
    rows = {row["name"]: row for row in json.loads(_run("list", "--json").stdout)}
    phone = rows["android-arm64"]["choices"]
    assert [choice["label"] for choice in phone] == ["", "xnnpack", "nnapi", "qnn", "qnn-a16"]
    assert rows["raspberry-pi-4"]["description"]
    assert rows["raspberry-pi-4"]["scheme"] == "ort-arm64"


def test_the_list_works_on_a_machine_that_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: `host` then says so, and the others are listed."""
    monkeypatch.setattr(machine, "arch", lambda: "riscv64")
    assert "raspberry-pi-5" in _run("list").stdout
    row = next(row for row in json.loads(_run("list", "--json").stdout) if row["name"] == "host")
    assert "riscv64" in row["description"]


def test_show_tells_parents_stand_in_and_registration() -> None:
    """Promise: what it extends, why this machine cannot stand in, and the command that registers such a device."""
    done = _run("show", "jetson-orin-nx")
    assert "extends jetson-orin-nano" in done.stdout
    assert 'name = "tensorrt"' in done.stdout
    assert "This machine cannot stand in for it" in done.stdout
    assert "edgepress devices add NAME --ssh user@jetson.local --target jetson-orin-nx" in done.stdout
    shown = json.loads(_run("show", "jetson-orin-nx", "--json").stdout)
    assert (shown["extends"], shown["stands_in"]) == (["jetson-orin-nano"], False)


def test_show_the_host_stands_in_for_itself() -> None:
    """Promise: the machine that runs edgepress is its own device."""
    done = _run("show", "host")
    assert "This machine can stand in for it." in done.stdout
    assert "devices add" not in done.stdout


def test_show_names_a_registered_device(tmp_path: Path) -> None:
    """Promise: a profile that names its device needs no hint how to register one."""
    (tmp_path / "b.toml").write_text(BOARD + '[device]\nname = "pi5"\n')
    assert "on the device 'pi5'" in _run("show", "b.toml").stdout


def test_valid_files_are_named(tmp_path: Path) -> None:
    """Promise: one line a file, exit code 0."""
    (tmp_path / "b.toml").write_text(BOARD)
    done = _run("validate", "b.toml", "host")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["b.toml: board is valid", "host: host is valid"]


def test_all_faults_of_all_files_come_at_once(tmp_path: Path) -> None:
    """Promise: every fault of every file, each with its file and key; good files are still named."""
    (tmp_path / "good.toml").write_text(BOARD)
    (tmp_path / "a.toml").write_text(BOARD + '[quantization]\nscheme = "trt"\n[engine]\nthreads = 0\n')
    (tmp_path / "c.toml").write_text("name = ")
    done = _run("validate", "good.toml", "a.toml", "c.toml")
    assert "good.toml: board is valid" in done.stdout
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 3
    assert "the set of 3 profiles (2 wrong)" in done.exception.what
    where = [fault.where for fault in done.exception.faults]
    assert sorted(where) == ["a.toml: engine.threads", "a.toml: quantization.scheme", "c.toml"]
    assert all(fault.fix for fault in done.exception.faults)


def test_validate_gives_data_and_the_exit_code(tmp_path: Path) -> None:
    """Promise: `--json` prints every file's verdict on stdout, and faults still decide the exit code."""
    (tmp_path / "a.toml").write_text(BOARD + "[engine]\nthreads = 0\n")
    done = _run("validate", "a.toml", "host", "--json")
    rows = json.loads(done.stdout)
    assert [row["ok"] for row in rows] == [False, True]
    assert rows[0]["faults"][0]["where"] == "engine.threads"
    assert isinstance(done.exception, InputError)


class _Probe:
    """Stands in for the measurement; keeps what it was asked for."""

    def __init__(self) -> None:
        self.options: list[ProbeOptions] = []

    def __call__(self, device: object, options: ProbeOptions, **_: object) -> SimpleNamespace:
        self.options.append(options)
        return SimpleNamespace(text=f'name = "{options.name}"\n', to_json=lambda: {"scores": {}})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ProbeOptions]:
    stand_in = _Probe()
    monkeypatch.setattr("pipeline.probing.probe.probe", stand_in)
    return stand_in.options


def test_a_probe_writes_its_profile(asked: list[ProbeOptions], tmp_path: Path) -> None:
    """Promise: the file is what was shown, named after itself, with the command that repeats it."""
    done = _run("probe", "--out", "my pc.toml", "--budget-s", "60", "--threads", "2")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "my pc.toml").read_text() == done.stdout == 'name = "my-pc"\n'
    (options,) = asked
    assert (options.budget_s, options.threads) == (60.0, 2)
    assert options.command == "edgepress targets probe --budget-s 60"


def test_a_probe_overwrites_nothing(asked: list[ProbeOptions], tmp_path: Path) -> None:
    """Promise: a profile that is already there is kept, and nothing is measured in vain."""
    (tmp_path / "local.toml").write_text("mine")
    done = _run("probe")
    assert isinstance(done.exception, UsageError)
    assert (tmp_path / "local.toml").read_text() == "mine"
    assert not asked


def test_a_probe_of_an_unknown_device_is_refused(asked: list[ProbeOptions]) -> None:
    """Promise: only registered devices are reached."""
    assert isinstance(_run("probe", "--device", "nosuch").exception, InputError)
    assert not asked


def test_a_probe_tells_data(asked: list[ProbeOptions]) -> None:
    """Promise: `--json` says where the profile was written, and what was measured."""
    assert json.loads(_run("probe", "--json").stdout) == {"file": "local.toml", "scores": {}}
    assert asked


def test_every_bundled_profile_can_be_shown() -> None:
    """Promise: no profile breaks the command, and each tells whether this machine stands in."""
    for name in profile_names():
        done = _run("show", name)
        assert done.exit_code == 0, (name, done.exception)
        assert load_profile(name).description in done.stdout
        assert "stand in for it" in done.stdout
