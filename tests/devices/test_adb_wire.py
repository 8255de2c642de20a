"""The promises of the adb transport, with the real adb client and a protocol fake of the device behind it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from targets.devices.adb import AdbTransport
from targets.errors import DeviceError, DeviceLost, EnvironmentFailure, RefusedError

if TYPE_CHECKING:
    from phone import Phone  # loaded by path, see conftest.py

pytestmark = pytest.mark.devices

MODEL, BUILD = "Board", "edge/board/board:14/UP1A/1:user/release-keys"
PATIENCE_S = 20.0


def test_finds_and_names_the_device(phone: Phone) -> None:
    """A device that is not registered yet tells its model and build, by which it is pinned from then on."""
    found = phone.transport(model=None, build=None).identity()
    assert (found.model, found.build) == (MODEL, BUILD)
    phone.transport().open()


@pytest.mark.parametrize("other", [{"model": "Another"}, {"build": "edge/board/board:15/X/2:user/release-keys"}])
def test_another_device_is_refused(phone: Phone, other: dict[str, str]) -> None:
    """A device of another model or build under the same serial is not used."""
    with pytest.raises(RefusedError, match="not the one that was registered"):
        phone.transport(**other).open()


def test_a_serial_that_is_not_listed(phone: Phone, adb: str) -> None:
    """The device is the one named, never the only one that is plugged in."""
    phone.transport().open()
    other = AdbTransport("tablet", "R58M123456", model=None, build=None, program=adb)
    with pytest.raises(DeviceError, match=re.escape(f"{phone.serial} (device)")) as caught:
        other.open()
    assert not isinstance(caught.value, DeviceLost)


@pytest.mark.parametrize("status", [0, 7, 255])
def test_exit_status_and_both_streams(phone: Phone, status: int) -> None:
    """Exit status, bytes on stdout and words on stderr arrive as they are, 255 (which adb uses itself) too."""
    phone.transport().open()
    done = phone.transport().shell(
        f"printf 'a\\000b\\r\\n\\377'; echo trouble >&2; exit {status}", timeout_s=PATIENCE_S
    )
    assert (done.status, done.stdout, done.stderr) == (status, b"a\0b\r\n\xff", b"trouble\n")


def test_a_script_arrives_as_it_is(phone: Phone) -> None:
    """No shell on the way reads the words: quotes, dollars, semicolons and lines stay."""
    phone.transport().open()
    word = 'it\'s; $(reboot) `id` "$HOME" \\ *\nsecond'
    (phone.folder / "word").write_text(word)
    done = phone.transport().shell("cat word; echo \"$0\" '$0' >/dev/null", timeout_s=PATIENCE_S)
    assert done.stdout.decode() == word


def test_files_go_there_and_back(phone: Phone, tmp_path: Path) -> None:
    """A file arrives byte for byte, whatever its name here, and comes back the same."""
    transport = phone.transport()
    transport.open()
    source, back = tmp_path / ";reboot; $(x) '.bin", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_001))
    transport.push(source, f"{phone.folder}/sent.bin")
    assert (phone.folder / "sent.bin").read_bytes() == source.read_bytes()
    transport.pull(f"{phone.folder}/sent.bin", back, max_bytes=4_000_000)
    assert back.read_bytes() == source.read_bytes()


def test_what_cannot_be_pulled(phone: Phone, tmp_path: Path) -> None:
    """A missing file and one over the limit are errors of the device, not a loss, and nothing large is left here."""
    transport = phone.transport()
    transport.open()
    (phone.folder / "large").write_bytes(bytes(3_000_000))
    for name, why in (("nothing", "did not give"), ("large", "sent too much")):
        with pytest.raises(DeviceError, match=why) as caught:
            transport.pull(f"{phone.folder}/{name}", tmp_path / "back", max_bytes=1_000_000)
        assert not isinstance(caught.value, DeviceLost)
    assert not (tmp_path / "back").exists() or (tmp_path / "back").stat().st_size <= 1_000_000


def test_a_folder_in_place_of_a_file(phone: Phone, tmp_path: Path) -> None:
    """A device that says that a file is a folder, with files of names that it chooses, gets nothing written here."""
    transport = phone.transport()
    transport.open()
    (tmp_path / "in" / "here").mkdir(parents=True)
    phone.fault("sync", "folder", "answer")
    with pytest.raises(DeviceError, match="did not give"):
        transport.pull(f"{phone.folder}/answer", tmp_path / "in" / "here" / "back", max_bytes=1_000_000)
    assert [path for path in (tmp_path / "in").rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_full_disk_there(phone: Phone, tmp_path: Path) -> None:
    """A push that the device refuses says what the device said."""
    transport = phone.transport()
    transport.open()
    (tmp_path / "x").write_bytes(bytes(100_000))
    phone.fault("sync", "full", "sent")
    with pytest.raises(DeviceError, match="No space left"):
        transport.push(tmp_path / "x", f"{phone.folder}/sent")


@pytest.mark.parametrize("fault", ["drop", "offline", "garbage", "zero"])
def test_a_command_that_is_cut_or_lied_about(phone: Phone, fault: str) -> None:
    """A connection that breaks, a device that goes, noise, and exit 0 for half an answer: all are a lost device."""
    transport = phone.transport()
    transport.open()
    phone.fault("shell", fault, "work")
    with pytest.raises(DeviceLost, match="'phone' was lost"):
        transport.shell(": work; echo 123456789; sleep 1; exit 3", timeout_s=PATIENCE_S)


def test_a_device_that_says_nothing(phone: Phone) -> None:
    """No answer within the time is a lost device; the wait is bounded."""
    transport = phone.transport()
    transport.open()
    phone.fault("shell", "silent", "work")
    with pytest.raises(DeviceLost, match="no answer for 1 s"):
        transport.shell(": work", timeout_s=1.0)


@pytest.mark.parametrize("fault", ["drop", "offline"])
def test_a_copy_that_is_cut(phone: Phone, phones: ModuleType, tmp_path: Path, fault: str) -> None:
    """A push and a pull that break off are a lost device; once it is back, the same copy succeeds."""
    transport = phone.transport()
    transport.open()
    (tmp_path / "x").write_bytes(os.urandom(2_000_000))
    phone.fault("sync", fault, "sent")
    with pytest.raises(DeviceLost):
        transport.push(tmp_path / "x", f"{phone.folder}/sent")
    phone.well()
    phones.until(lambda: _opens(transport))
    transport.push(tmp_path / "x", f"{phone.folder}/sent")
    phone.fault("sync", fault, "sent")
    with pytest.raises(DeviceLost):
        transport.pull(f"{phone.folder}/sent", tmp_path / "back", max_bytes=3_000_000)


def _opens(transport: AdbTransport) -> bool:
    try:
        transport.open()
    except DeviceError:
        return False
    return True


def test_an_unplugged_device(phone: Phone) -> None:
    """A device that is unplugged in between is lost, and opening it says that it is not there."""
    transport = phone.transport()
    transport.open()
    phone.unplug()
    with pytest.raises(DeviceLost):
        transport.shell("echo 1", timeout_s=PATIENCE_S)
    with pytest.raises(DeviceError, match=r"is not there|does not answer"):
        transport.open()


def test_the_device_program_over_adb(phone: Phone) -> None:
    """The device program is sent, run and answers through adb, its lock and working folder included."""
    device = phone.device(sys.executable)
    with device.session(wait_s=5) as session:
        assert session.facts().runtime_version
    assert device.kind == "adb"


def test_an_arm64_phone(phone: Phone, emulated: ModuleType) -> None:
    """A device of another kind of CPU says so: arm64 Python there, the answer read here."""
    python = emulated.part("arm64") / "python-cortex-a76"
    facts = phone.device(str(python)).facts()
    assert facts.arch == "aarch64"


@pytest.mark.parametrize("fault", ["garbage", "zero", "twice"])
def test_no_wrong_answer_passes_for_a_right_one(phone: Phone, fault: str) -> None:
    """Noise, exit 0 for half an answer, and an answer given twice are errors, never facts."""
    device = phone.device(sys.executable)
    device.facts()
    phone.fault("shell", fault, "facts")
    with pytest.raises((DeviceError, EnvironmentFailure)):
        device.facts()
