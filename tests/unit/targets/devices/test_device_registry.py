"""The list of devices: private, whole, and only what can be used safely gets in."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from targets.devices.registry import AdbEntry, Registry, SshEntry, checked
from targets.errors import InputError, RefusedError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4fPEyKmxk0VYSo4ZkNfqPVx5yHVlN9pZR3HnkO3YBC"
PHONE = AdbEntry(serial="R58M", model="SM-G991", build="samsung/o1s/o1s:13/TP1A")


def _board(host: str = "pi@board") -> SshEntry:
    return SshEntry(host=host, host_key=KEY)


def test_what_was_added_is_there(tmp_path: Path) -> None:
    """Devices of both kinds come back as they were added, from a file that only its owner reads."""
    Registry(tmp_path / "new").put("pi4", _board())
    Registry(tmp_path / "new").put("phone", PHONE)
    assert Registry(tmp_path / "new").entries() == {"pi4": _board(), "phone": PHONE}
    path = tmp_path / "new" / "devices.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_unknown_name_gets_a_hint(tmp_path: Path) -> None:
    """A misspelt name is an input error that names the near ones."""
    Registry(tmp_path).put("pi4", _board())
    with pytest.raises(InputError, match="pi5") as caught:
        Registry(tmp_path).entry("pi5")
    assert "'pi4'" in caught.value.why


@pytest.mark.parametrize("name", ["local", "", "-x", "A", "a b", "../a", "a" * 64, "a\n"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name is plain, and is not that of this machine."""
    with pytest.raises(InputError):
        Registry(tmp_path).put(name, _board())
    assert Registry(tmp_path).entries() == {}


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """A second device of the same name does not replace the first, and only a registered one can be replaced."""
    registry = Registry(tmp_path)
    registry.put("pi4", _board())
    with pytest.raises(InputError, match="already"):
        registry.put("pi4", _board("other"))
    with pytest.raises(InputError, match="pi5"):
        registry.put("pi5", _board("other"), replace=True)
    registry.put("pi4", _board("other"), replace=True)
    assert registry.entry("pi4") == _board("other")
    registry.remove("pi4")
    assert registry.entries() == {}


@pytest.mark.parametrize("mode", [0o622, 0o606 | 0o020])
def test_a_list_that_others_can_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    """A file or folder that others may change could name another device: refused."""
    Registry(tmp_path).put("pi4", _board())
    (tmp_path / "devices.json").chmod(mode)
    with pytest.raises(RefusedError, match=r"devices\.json"):
        Registry(tmp_path).entries()
    (tmp_path / "devices.json").chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(RefusedError):
        Registry(tmp_path).entries()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        "\0",
        '{"devices": 1}',
        '{"devices": []}',
        '{"devices": {"a": {"kind": "usb"}}}',
        '{"devices": {"a": {"kind": "ssh"}}}',
    ],
)
def test_a_damaged_list_is_said(tmp_path: Path, text: str) -> None:
    """A file that cannot be read is an error that names it, and never an empty list."""
    (tmp_path / "devices.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        Registry(tmp_path).entries()


def test_nothing_is_written_where_others_can_write(tmp_path: Path) -> None:
    """A folder that others may change gets no list, so none is trusted later by mistake."""
    tmp_path.chmod(0o777)
    with pytest.raises(RefusedError):
        Registry(tmp_path).put("pi4", _board())
    assert list(tmp_path.iterdir()) == []


def test_a_list_that_others_can_read_is_used(tmp_path: Path) -> None:
    """It holds no secrets; the next change makes it private again."""
    Registry(tmp_path).put("pi4", _board())
    (tmp_path / "devices.json").chmod(0o644)
    assert Registry(tmp_path).entry("pi4") == _board()
    Registry(tmp_path).put("pi5", _board())
    assert (tmp_path / "devices.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "$(x)", "a;b", "edge@-x", "", "a" * 300, "a\nb"])
def test_a_host_in_the_file_is_checked_again(host: str) -> None:
    """What a person wrote into the file by hand is held to the same rules."""
    with pytest.raises(ValidationError):
        SshEntry.model_validate({"host": host, "host_key": KEY})
    with pytest.raises(InputError):
        checked(SshEntry, {"host": host, "host_key": KEY})


@pytest.mark.parametrize("python", ["-c", "python3; reboot", "a b", "$(x)", ""])
def test_a_python_in_the_file_is_a_plain_path(python: str) -> None:
    """The program that runs there is a name or a path, and nothing that a shell reads more into."""
    with pytest.raises(InputError, match="python"):
        checked(SshEntry, {"host": "a", "host_key": KEY, "python": python})


def test_nothing_is_lost_when_many_add(tmp_path: Path) -> None:
    """Devices that are added at the same moment are all there afterwards."""
    names = [f"pi{number}" for number in range(12)]
    threads = [threading.Thread(target=Registry(tmp_path).put, args=(name, _board())) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Registry(tmp_path).entries()) == sorted(names)
    assert json.loads((tmp_path / "devices.json").read_text())["version"] == 1
