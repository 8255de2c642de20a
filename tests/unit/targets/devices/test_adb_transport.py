"""The promises of the adb transport, with a stand-in for the adb client (the real one: tests/devices)."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.devices.adb import AdbTransport
from targets.devices.adbclient import broke_off, complaint, says_gone
from targets.errors import DeviceError, DeviceLost, EnvironmentFailure, InputError, RefusedError
from targets.process import ChildResult

SERIAL, MODEL, BUILD = "R58M123456A", "Board 4", "edge/board/board:14/UP1A/1:user/release-keys"
STAND_IN = """\
import json, os, pathlib, shutil, subprocess, sys, time
place = pathlib.Path(__file__).parent
said = json.loads((place / "said.json").read_text())
with (place / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
words = sys.argv[3:] if sys.argv[1] == "-s" else sys.argv[1:]
answer = said.get(words[0])
if answer is not None:
    time.sleep(answer.get("sleep_s", 0))
    sys.stdout.write(answer.get("out", ""))
    sys.stderr.write(answer.get("err", ""))
    sys.exit(answer.get("status", 0))
if words[0] == "shell":
    path = f"{place}:" + os.environ["PATH"]
    sys.exit(subprocess.run(["sh", "-c", words[-1]], env={**os.environ, "PATH": path}).returncode)
if words[0] in ("push", "pull"):
    shutil.copyfile(words[2], words[3])
"""


class Computer:
    """A machine with an adb client of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "adb"
        (folder / "adb.py").write_text(STAND_IN)
        self.program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {folder}/adb.py "$@"\n')
        self.program.chmod(0o755)
        getprop = folder / "getprop"
        getprop.write_text(f"#!/bin/sh\ncase $1 in *model) echo '{MODEL}';; *) echo '{BUILD}';; esac\n")
        getprop.chmod(0o755)
        self.said: dict[str, object] = {
            "devices": {"out": f"List of devices attached\n{SERIAL}\tdevice\nOTHER\tunauthorized\n\n"},
            "features": {"out": "cmd\nshell_v2\n"},
            "start-server": {},
            "connect": {"out": "failed to connect\n"},
        }
        self.says()

    def says(self, **answers: object) -> None:
        self.said |= {name.replace("_", "-"): answer for name, answer in answers.items()}
        (self.folder / "said.json").write_text(json.dumps(self.said))

    def lists(self, state: str, serial: str = SERIAL) -> None:
        self.says(devices={"out": f"List of devices attached\n{serial}\t{state}\n\n"})

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def transport(
        self, serial: str = SERIAL, model: str | None = MODEL, build: str | None = BUILD, *, tcp: bool = False
    ) -> AdbTransport:
        return AdbTransport("phone", serial, model=model, build=build, tcp=tcp, program=str(self.program))


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    folder = tmp_path / "computer"
    folder.mkdir()
    return Computer(folder)


def test_every_call_about_a_device_names_its_serial(computer: Computer, tmp_path: Path) -> None:
    """Nothing is ever asked of "the only device": each call has ``-s SERIAL``, but for those about the server."""
    transport = computer.transport()
    transport.open()
    (tmp_path / "x").write_bytes(b"x")
    transport.push(tmp_path / "x", f"{tmp_path}/y")
    transport.pull(f"{tmp_path}/y", tmp_path / "z", max_bytes=100_000)
    transport.shell("echo", timeout_s=20)
    assert (tmp_path / "z").read_bytes() == b"x"
    others = [call for call in computer.calls() if call[:2] != ["-s", SERIAL]]
    assert {call[0] for call in others} <= {"start-server", "devices"}
    assert {call[2] for call in computer.calls() if call[0] == "-s"} == {"features", "shell", "push", "pull"}


def test_model_and_build_are_pinned(computer: Computer) -> None:
    """The pinned device opens; another model or build under its serial is refused, and named."""
    computer.transport().open()
    found = computer.transport(model="Other", build=None).identity()
    assert (found.model, found.build) == (MODEL, BUILD)
    for pins in ({"model": "Other"}, {"build": "other/build"}):
        with pytest.raises(RefusedError, match="is not the one that was registered") as caught:
            computer.transport(**pins).open()
        assert "other" in caught.value.why.lower()


@pytest.mark.parametrize(
    ("state", "what", "fix"),
    [
        ("unauthorized", "has not allowed", "unlock its screen"),
        ("offline", "offline", "unplug it"),
        ("no permissions (missing udev rules?); see [http://developer.android.com]", "may not open", "udev"),
        ("recovery", "'recovery'", "boot it"),
    ],
)
def test_a_device_that_is_not_ready(computer: Computer, state: str, what: str, fix: str) -> None:
    """Each state in which a device cannot be used says what it is, and what to do."""
    computer.lists(state)
    with pytest.raises(DeviceError, match="does not answer") as caught:
        computer.transport().open()
    assert what in caught.value.why
    assert fix in caught.value.fix


def test_a_device_that_is_not_there(computer: Computer) -> None:
    """A serial that is not listed is an error that names those that are; a part of a serial is not enough."""
    for serial in ("R58M", SERIAL + "B", SERIAL.lower()):
        with pytest.raises(DeviceError, match=rf"{SERIAL} \(device\)"):
            computer.transport(serial).open()


def test_an_old_android(computer: Computer) -> None:
    """A device without the shell protocol that keeps stdout apart is refused before anything runs there."""
    computer.says(features={"out": "cmd\n"})
    with pytest.raises(DeviceError, match="too old"):
        computer.transport().open()


@pytest.mark.parametrize("serial", ["192.168.0.7:5555", "[fe80::1%eth0]:5555", "adb-R58M-x._adb-tls-connect._tcp"])
def test_network_serials_need_a_flag(computer: Computer, serial: str) -> None:
    """A device that anybody on the network could be is refused, unless its registration allows it."""
    with pytest.raises(RefusedError, match="over the network"):
        computer.transport(serial)
    computer.lists("device", serial)
    computer.transport(serial, tcp=True).open()
    assert ["connect", serial] in computer.calls()


@pytest.mark.parametrize("serial", ["", "-s", "a b", "a;reboot", "$(x)", "a\nb", "é", "a" * 200])
def test_what_is_no_serial(computer: Computer, serial: str) -> None:
    """A serial that could be an option, or words of a shell, is refused."""
    with pytest.raises(InputError, match="no serial"):
        computer.transport(serial)


def test_scripts_pass_one_shell_only(computer: Computer) -> None:
    """The script reaches the device's ``sh`` as one quoted word, whatever stands in it."""
    script = "printf '%s' 'a;b $(c) \"d\" \\e'\"'\"'f'"
    assert computer.transport().shell(script, timeout_s=20).stdout == b'a;b $(c) "d" \\e\'f'
    sent = computer.calls()[-1]
    assert sent[2:5] == ["shell", "-n", "-T"]
    assert shlex.split(sent[5])[:2] == ["sh", "-c"]
    assert script in shlex.split(sent[5])[2]


def test_the_exit_status_is_not_adbs(computer: Computer) -> None:
    """What adb itself ends with says nothing: an old client gives 0 for a command that failed."""
    program = computer.folder / "adb"
    program.write_text(program.read_text().replace("exec ", "").rstrip() + "\nexit 0\n")
    assert computer.transport().shell("exit 9", timeout_s=20).status == 9


@pytest.mark.parametrize(
    "answer",
    [
        {"err": "error: device 'R58M123456A' not found\n", "status": 1},
        {"err": "error: device offline\n", "status": 1},
        {"err": "error: closed\n", "status": 1},
        {"out": "0123456789abcdef\n", "status": 0},
        {"out": "", "status": 0},
    ],
)
def test_a_device_that_goes_away(computer: Computer, answer: dict[str, object]) -> None:
    """A loss in adb's words, and an answer without its end, are a lost device."""
    transport = computer.transport()
    computer.says(shell=answer)
    with pytest.raises(DeviceLost, match="'phone' was lost"):
        transport.shell("true", timeout_s=20)


def test_no_answer_in_time(computer: Computer) -> None:
    """A call that does not end is ended, and the device counts as lost."""
    computer.says(shell={"sleep_s": 60})
    with pytest.raises(DeviceLost, match=r"no answer for 0\.5 s"):
        computer.transport().shell("true", timeout_s=0.5)


def test_too_much_output(computer: Computer) -> None:
    """A device that floods is stopped at the limit."""
    computer.says(shell={"out": "x" * 300_000})
    with pytest.raises(DeviceError, match="sent too much"):
        computer.transport().shell("true", timeout_s=20, limit_bytes=100_000)


def test_a_pull_over_the_limit(computer: Computer, tmp_path: Path) -> None:
    """A file larger than announced never lies here whole."""
    (tmp_path / "large").write_bytes(bytes(300_000))
    with pytest.raises(DeviceError):
        computer.transport().pull(f"{tmp_path}/large", tmp_path / "here", max_bytes=100_000)
    assert (tmp_path / "here").stat().st_size <= 100_000


def test_a_copy_that_is_refused(computer: Computer, tmp_path: Path) -> None:
    """A copy that fails on a device that is still there is its error, in adb's words; if it is gone, it is lost."""
    (tmp_path / "x").write_bytes(b"x")
    computer.says(push={"out": "adb: error: failed to copy: No space left on device\n0 files pushed.\n", "status": 1})
    with pytest.raises(DeviceError, match="No space left on device") as caught:
        computer.transport().push(tmp_path / "x", "/data/local/tmp/x")
    assert not isinstance(caught.value, DeviceLost)
    computer.lists("offline")
    with pytest.raises(DeviceLost):
        computer.transport().push(tmp_path / "x", "/data/local/tmp/x")


def test_a_machine_without_adb(computer: Computer) -> None:
    """Without an adb client the message says what to install here."""
    computer.program = computer.folder / "nothing"
    with pytest.raises(EnvironmentFailure, match="apt install adb"):
        computer.transport().open()


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_complaints_are_printable(out: bytes, err: bytes) -> None:
    """Whatever adb or a device wrote, what is shown of it is one bounded line without control characters."""
    text = complaint(ChildResult(returncode=1, stdout=out, stderr=err, wall_s=0.0, peak_rss_bytes=0))
    assert 0 < len(text) <= 300
    assert text.isprintable()


def test_a_copy_that_breaks_off_without_a_word() -> None:
    """Progress and then nothing is a way that was cut; an error of adb's, or a copy that succeeded, is not."""
    ended = {"wall_s": 0.0, "peak_rss_bytes": 0}
    assert broke_off(ChildResult(returncode=1, stdout=b"[  3%] /x/sent\n", stderr=b"", **ended))
    assert not broke_off(ChildResult(returncode=1, stdout=b"[  3%] /x\n", stderr=b"adb: error: cannot write", **ended))
    assert not broke_off(ChildResult(returncode=0, stdout=b"[100%] /x/sent\n", stderr=b"", **ended))


@pytest.mark.parametrize(
    "words",
    [
        "error: no devices/emulators found",
        "adb: error: protocol fault (no status)",
        "adb: error: failed to copy 'a' to '/b': couldn't read from device",
    ],
)
def test_words_for_a_loss(words: str) -> None:
    """What adb says of a lost way to a device is known; what it says of a file is not among that."""
    assert says_gone(words)
    assert not says_gone("adb: error: failed to stat remote object '/x': No such file or directory")
