"""A remote device whose connection breaks, lies or comes back: what is kept, what is said, what is cleaned."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from targets.devices.holder import this_process
from targets.devices.remote import RemoteDevice
from targets.devices.transport import ShellResult
from targets.errors import DeviceError, DeviceLost, EnvironmentFailure

if TYPE_CHECKING:
    from folder_transport import FolderTransport  # loaded by path, see conftest.py

    from targets.devices.base import Session

    Prepare = Callable[[FolderTransport], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The remote device's home folder."""
    return tmp_path / "device"


@pytest.fixture
def remote(folder_transport: ModuleType, root: Path) -> Callable[..., RemoteDevice]:
    """Makes a device; its transports are prepared by the function given."""

    def make(prepare: Prepare = lambda _: None, python: str = sys.executable) -> RemoteDevice:
        def connect() -> FolderTransport:
            transport = folder_transport.FolderTransport(root)
            prepare(transport)
            return transport

        return RemoteDevice("folder", connect, kind="folder", python=python)

    return make


def _pass(session: Session, timeout_s: float = 60) -> bool:
    """The cheapest question that needs the program."""
    return session.run(["sentinel", "--repeats", "1"], timeout_s=timeout_s).result["repeats"] == 1


def _is_run(script: str) -> bool:
    return ".run-" in script and "trap" in script


def _left(root: Path) -> list[str]:
    names = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(".pyz"))


def test_an_answer_survives_the_connection(remote: Callable[..., RemoteDevice]) -> None:
    """The connection breaks after the program has ended: its answer is read from there, and it runs only once."""
    opened, runs = [], []

    def prepare(transport: FolderTransport) -> None:
        opened.append(transport)

        def after(transport: FolderTransport, script: str, result: ShellResult) -> ShellResult:
            if _is_run(script):
                runs.append(script)
                transport.cut()
            return result

        transport.after = after

    with remote(prepare).session() as session:
        assert _pass(session)
    assert [transport.opened for transport in opened] == [2]
    assert len(runs) == 1


@pytest.mark.parametrize("kept", [0, 20, 200])
def test_a_torn_answer_is_read_again(remote: Callable[..., RemoteDevice], kept: int) -> None:
    """An answer that ends in mid-JSON is not taken for one; the whole one is read over a new connection."""

    def prepare(transport: FolderTransport) -> None:
        def after(_: FolderTransport, script: str, result: ShellResult) -> ShellResult:
            if _is_run(script):
                return ShellResult(status=0, stdout=result.stdout[:kept], stderr=b"")
            return result

        transport.after = after

    with remote(prepare).session() as session:
        assert _pass(session)


def test_a_program_that_never_ran_is_lost(remote: Callable[..., RemoteDevice], root: Path) -> None:
    """The connection breaks before the program starts, and there is nothing to find: DeviceLost, and all is clean."""

    def prepare(transport: FolderTransport) -> None:
        def before(transport: FolderTransport, script: str) -> None:
            if _is_run(script):
                transport.cut()

        transport.before = before

    with remote(prepare).session() as session, pytest.raises(DeviceLost) as caught:
        _pass(session)
    assert caught.value.what == "device 'folder' was lost"
    assert caught.value.why.startswith("the cable was cut while it ran sentinel")
    assert _left(root) == [".edgepress/lock"]


def test_a_device_that_started_anew_is_lost(remote: Callable[..., RemoteDevice], root: Path) -> None:
    """The device is back, but its working folder is gone: DeviceLost, no answer of another time."""

    def prepare(transport: FolderTransport) -> None:
        def after(transport: FolderTransport, script: str, result: ShellResult) -> ShellResult:
            if _is_run(script):
                shutil.rmtree(root / ".edgepress" / "sessions")
                transport.cut()
            return result

        transport.after = after

    with remote(prepare).session() as session, pytest.raises(DeviceLost, match="has ended without an answer"):
        _pass(session)


def test_a_lost_session_is_cleaned_by_the_next(
    remote: Callable[..., RemoteDevice], root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that does not come back keeps our files until it is used again; then they go, and it is said."""
    (tmp_path / "data").write_bytes(bytes(300_000))

    def gone(transport: FolderTransport) -> None:
        def before(transport: FolderTransport, script: str) -> None:
            if _is_run(script) or transport.opened > 1:
                transport.cut()

        transport.before = before

    def use() -> None:
        with remote(gone).session() as session:
            session.put(tmp_path / "data", "data")
            _pass(session)

    with caplog.at_level(logging.WARNING):
        with pytest.raises(DeviceLost):
            use()
        assert [name for name in _left(root) if name.endswith("/data")]
        with remote().session(wait_s=0) as session:
            assert _pass(session)
    assert "removed 300" in caplog.text or "removed 0.3 MB" in caplog.text
    assert _left(root) == [".edgepress/lock"]


def test_a_copy_that_changed_on_the_way_is_sent_again(
    remote: Callable[..., RemoteDevice], root: Path, tmp_path: Path
) -> None:
    """A flipped bit is found by the hash there: sent once more, then it is right; twice wrong is an error."""
    (tmp_path / "data").write_bytes(b"content")
    flips = [1]

    def prepare(transport: FolderTransport) -> None:
        def flip(path: Path) -> None:
            if path.read_bytes() == b"content" and flips[0] > 0:
                flips[0] -= 1
                path.write_bytes(b"contend")

        transport.during_push = flip

    with remote(prepare).session() as session:
        session.put(tmp_path / "data", "deep/data")
        [there] = root.rglob("data")
        assert there.read_bytes() == b"content"
        flips[0] = 2
        with pytest.raises(DeviceError, match="failed twice"):
            session.put(tmp_path / "data", "other")
        assert not [path for path in root.rglob("*") if path.name == "other" or path.name.startswith(".in-")]


def test_the_program_is_sent_once(remote: Callable[..., RemoteDevice], root: Path) -> None:
    """The device program stays there under its hash; a damaged one is replaced before it runs."""
    pushed: list[list[str]] = []
    device = remote(lambda transport: pushed.append(transport.pushed))
    assert device.facts().fingerprint == device.facts().fingerprint
    assert [len(names) for names in pushed] == [1, 0]
    [program] = root.rglob("*.pyz")
    program.write_bytes(program.read_bytes() + b"\n# changed")
    assert device.facts().fingerprint
    assert len(pushed[-1]) == 1


@pytest.mark.parametrize("garbage", [b"", b"0 5\nabcde", b"\x1b]0;title\x07" * 100, b"999 99999999\n{}", b"x" * 3000])
def test_garbage_is_an_error_of_the_device(remote: Callable[..., RemoteDevice], garbage: bytes) -> None:
    """Whatever a hostile device answers, it is a device error without control characters."""

    def prepare(transport: FolderTransport) -> None:
        def after(_: FolderTransport, script: str, result: ShellResult) -> ShellResult:
            if _is_run(script):
                mark = result.stdout.split(b"\n", 1)[0]
                return ShellResult(status=0, stdout=mark + b"\n" + garbage + b"\n" + mark + b" 0\n", stderr=b"\x1b[2J")
            return result

        transport.after = after

    with remote(prepare).session() as session, pytest.raises(DeviceError) as caught:
        _pass(session)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("path", [b"../../etc", b"/x y", b"/$(reboot)", b"/a;b", b""])
def test_a_hostile_folder_is_refused(remote: Callable[..., RemoteDevice], path: bytes) -> None:
    """A path that the device names is used only when it is plain."""

    def prepare(transport: FolderTransport) -> None:
        def after(_: FolderTransport, script: str, result: ShellResult) -> ShellResult:
            lines = result.stdout.split(b"\n")
            return ShellResult(status=0, stdout=b"\n".join([lines[0], path, *lines[2:]]), stderr=b"")

        transport.after = after

    with pytest.raises(DeviceError, match="no folder"):
        remote(prepare).facts()


def test_a_missing_python_says_what_to_install(remote: Callable[..., RemoteDevice], tmp_path: Path) -> None:
    """No Python, and one that does not start, are told apart; both name the device."""
    with pytest.raises(DeviceError, match="'folder' has no no-python") as caught:
        remote(python="no-python").facts()
    assert "install" in caught.value.fix
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(DeviceError, match="cannot be used"):
        remote(python=str(broken)).facts()


def test_a_full_disk_says_how_much_to_free(remote: Callable[..., RemoteDevice], tmp_path: Path) -> None:
    """A copy that the device's disk does not hold: an environment failure with device, size and what is free."""
    (tmp_path / "data").write_bytes(bytes(5_000_000))

    def prepare(transport: FolderTransport) -> None:
        def refuse(path: Path) -> None:
            if path.stat().st_size == 5_000_000:
                raise DeviceError("copying failed", "No space left on device", "look there")

        def after(_: FolderTransport, script: str, result: ShellResult) -> ShellResult:
            if "df -Pk" in script:
                mark = result.stdout.split(b"\n", 1)[0]
                line = b"/dev/root 100000 99000 1000 99% /home\n"
                return ShellResult(status=0, stdout=mark + b"\n" + line + b"\n" + mark + b" 0\n", stderr=b"")
            return result

        transport.during_push = refuse
        transport.after = after

    with remote(prepare).session() as session, pytest.raises(EnvironmentFailure, match="disk of device 'folder'") as at:
        session.put(tmp_path / "data", "data")
    assert "5.0 MB" in at.value.why
    assert "1.0 MB are free" in at.value.why


def test_the_lease_covers_the_command(remote: Callable[..., RemoteDevice], root: Path) -> None:
    """While a command runs, the lock on the device lasts longer than the command may."""
    leases = []

    def prepare(transport: FolderTransport) -> None:
        def before(_: FolderTransport, script: str) -> None:
            if _is_run(script):
                leases.append(json.loads((root / ".edgepress" / "lease.json").read_text())["until_uptime_s"])

        transport.before = before

    with remote(prepare).session() as session:
        for timeout_s in (10, 1000, 4000):
            _pass(session, timeout_s)
            assert leases[-1] > time.clock_gettime(time.CLOCK_BOOTTIME) + timeout_s


def test_a_device_that_never_lets_go_is_in_use(remote: Callable[..., RemoteDevice], root: Path) -> None:
    """A lock that comes back each time its ended holder is released keeps nobody busy for ever."""
    ended = re.sub(r":[0-9]+\]$", ":1]", this_process())
    taken = []

    def prepare(transport: FolderTransport) -> None:
        def before(_: FolderTransport, script: str) -> None:
            if " lock take " in script:
                taken.append(script)
                boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
                lease = {"boot_id": boot, "token": f"{len(taken):032x}", "holder": ended, "until_uptime_s": 1e12}
                (root / ".edgepress" / "lease.json").write_text(json.dumps(lease))

        transport.before = before

    with pytest.raises(DeviceError, match="in use"), remote(prepare).session(wait_s=0):
        pass
    assert 1 < len(taken) < 20


def test_a_device_that_another_took_over_is_left_alone(remote: Callable[..., RemoteDevice], root: Path) -> None:
    """A session whose lease went to somebody else stops, and neither runs nor removes anything there."""
    with remote().session() as session:
        lease = root / ".edgepress" / "lease.json"
        other = json.loads(lease.read_text()) | {"token": "f" * 32, "holder": "ann@far, process 1"}
        lease.write_text(json.dumps(other))
        with pytest.raises(DeviceError, match="taken over") as caught:
            _pass(session, 1000)
        assert "ann@far" in caught.value.why
    assert json.loads(lease.read_text())["token"] == "f" * 32
