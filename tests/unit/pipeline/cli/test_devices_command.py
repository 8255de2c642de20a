"""The command `devices`: what it asks for, and what it refuses before anything is reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import devices as commands
from targets.devices.pinning import HostKey
from targets.devices.registry import Registry, SshEntry
from targets.errors import InputError, RefusedError, UsageError

KEY = HostKey.parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4fPEyKmxk0VYSo4ZkNfqPVx5yHVlN9pZR3HnkO3YBC")
OTHER = HostKey.parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4fPEyKmxk0VYSo4ZkNfqPVx5yHVlN9pZR3HnkO3YBD")


@pytest.fixture(autouse=True)
def _one_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world with one board, whose key is KEY."""
    monkeypatch.setenv("EDGEPRESS_DEVICES", str(tmp_path / "devices"))
    monkeypatch.setattr("targets.devices.pinning.collect_key", lambda _name, _host: KEY)
    monkeypatch.setattr(commands, "_is_terminal", lambda: True)


def _run(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(commands.devices, list(words), input=answer)


def test_yes_registers_what_was_shown() -> None:
    """A typed yes registers the key whose fingerprint was shown, with everything else that was given."""
    done = _run("add", "pi4", "--ssh", "pi@board:2222", "--target", "raspberry-pi-5", answer="yes\n")
    assert done.exit_code == 0, done.output
    assert KEY.fingerprint in done.stderr
    expected = SshEntry(host="pi@board", port=2222, host_key=str(KEY), target="raspberry-pi-5")
    assert Registry().entry("pi4") == expected
    [local, pi4] = json.loads(_run("list", "--json").stdout)
    assert local["name"] == "local"
    assert (pi4["name"], pi4["kind"], pi4["address"]) == ("pi4", "ssh", "pi@board:2222")
    assert KEY.fingerprint in pi4["identity"]


@pytest.mark.parametrize("answer", ["", "y\n", "no\n", "\n", "yess\n"])
def test_anything_else_than_yes_registers_nothing(answer: str) -> None:
    """Neither a habit of typing y nor an empty input confirms a key."""
    done = _run("add", "pi4", "--ssh", "board", answer=answer)
    assert isinstance(done.exception, RefusedError)
    assert f"--fingerprint {KEY.fingerprint}" in done.exception.fix
    assert Registry().entries() == {}


def test_without_a_terminal_only_a_fingerprint_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A yes that comes through a pipe was typed by nobody who compared; the refusal says what to give instead."""
    monkeypatch.setattr(commands, "_is_terminal", lambda: False)
    refused = _run("add", "pi4", "--ssh", "board", answer="yes\n").exception
    assert isinstance(refused, RefusedError)
    assert "terminal" in refused.why
    assert f"--fingerprint {KEY.fingerprint}" in refused.fix
    assert Registry().entries() == {}
    assert _run("add", "pi4", "--ssh", "board", "--fingerprint", KEY.fingerprint).exit_code == 0


def test_the_fingerprint_must_be_the_right_one() -> None:
    """A fingerprint given is compared, not asked about."""
    assert isinstance(_run("add", "a", "--ssh", "b", "--fingerprint", OTHER.fingerprint).exception, RefusedError)
    assert Registry().entries() == {}
    assert _run("add", "a", "--ssh", "b", "--fingerprint", KEY.fingerprint).exit_code == 0


@pytest.mark.parametrize("words", [[], ["--ssh", "a", "--adb", "b"]])
def test_there_is_one_way_to_a_device(words: list[str]) -> None:
    """Neither both kinds nor none."""
    assert isinstance(_run("add", "pi4", *words).exception, UsageError)


@pytest.mark.parametrize(
    "words",
    [["local", "--ssh", "a"], ["A", "--ssh", "a"], ["a", "--ssh", "a", "--target", "toaster"], ["a", "--ssh", "a:0"]],
)
def test_faults_are_found_before_the_device_is_asked(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, profiles and ports are checked first."""
    monkeypatch.setattr("targets.devices.pinning.collect_key", lambda *_: pytest.fail("it was asked"))
    assert isinstance(_run("add", *words).exception, InputError)


def test_trust_takes_exactly_the_new_key() -> None:
    """A device that was set up anew is trusted again by its new fingerprint only; the rest stays as it was."""
    old = SshEntry(host="pi@board", port=22, host_key=str(OTHER), python="/opt/python3", target="raspberry-pi-5")
    Registry().put("pi4", old)
    assert isinstance(_run("trust", "pi4", "--fingerprint", OTHER.fingerprint).exception, RefusedError)
    assert Registry().entry("pi4") == old
    assert _run("trust", "pi4", "--fingerprint", KEY.fingerprint).exit_code == 0
    assert Registry().entry("pi4") == old.model_copy(update={"host_key": str(KEY)})


def test_unknown_devices_are_named() -> None:
    """Every command that takes a device says which are near."""
    Registry().put("pi4", SshEntry(host="a", host_key=str(KEY)))
    for words in (["facts", "pi5"], ["rm", "pi5"], ["shell", "pi5"], ["trust", "pi5", "--fingerprint", "x"]):
        error = _run(*words).exception
        assert isinstance(error, InputError)
        assert "pi4" in error.why


def test_the_list_is_for_people_too() -> None:
    """Without devices, this machine is listed; forgotten ones are not."""
    assert _run("list").stdout == "local            local  this machine\n"
    Registry().put("pi4", SshEntry(host="a", host_key=str(KEY)))
    assert _run("rm", "pi4").exit_code == 0
    assert "pi4" not in _run("list").stdout
