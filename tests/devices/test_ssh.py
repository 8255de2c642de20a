"""A device behind a real sshd: who it is, what gets there, what comes back."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.devices import devices as devices_command
from targets.devices import device
from targets.devices.registry import Registry, SshEntry
from targets.errors import DeviceError, EnvironmentFailure, InputError, RefusedError

if TYPE_CHECKING:
    from sshd import Board  # loaded by path, see conftest.py

pytestmark = pytest.mark.devices


def _cli(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(devices_command, list(words), input=answer)


def test_added_with_the_right_fingerprint_it_tells_what_it_is(board: Board) -> None:
    """`devices add --fingerprint` of the key that ssh-keygen shows registers it, and facts come from over there."""
    board.start()
    words = ["add", "pi", "--ssh", board.address, "--fingerprint", board.fingerprint(), "--python", sys.executable]
    added = _cli(*words)
    assert added.exit_code == 0, added.output
    assert board.fingerprint() in added.output
    found = _cli("facts", "pi", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["fingerprint"] == device("local").facts().fingerprint
    assert "pi" in _cli("list").stdout


def test_nothing_is_offered_before_a_person_confirms(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """`devices add` asks for the key without logging in, and anything else than yes registers nothing."""
    monkeypatch.setattr("pipeline.cli.devices._is_terminal", lambda: True)
    board.start()
    refused = _cli("add", "pi", "--ssh", board.address, answer="no\n")
    assert isinstance(refused.exception, RefusedError)
    assert board.fingerprint() in refused.output
    assert Registry().entries() == {}
    assert "Accepted" not in board.log.read_text()
    assert "publickey" not in board.log.read_text()
    assert _cli("add", "pi", "--ssh", board.address, answer="yes\n").exit_code == 0
    assert isinstance(Registry().entry("pi"), SshEntry)


def test_another_fingerprint_is_refused(board: Board) -> None:
    """A fingerprint that the host does not have registers nothing."""
    board.start()
    refused = _cli("add", "pi", "--ssh", board.address, "--fingerprint", board.fingerprint("b"))
    assert isinstance(refused.exception, RefusedError)
    assert Registry().entries() == {}


def test_a_changed_host_key_is_a_hard_stop(pi: Board) -> None:
    """A host with another key gets nothing from us until `devices trust` names that key."""
    assert device("pi").facts().fingerprint
    pi.stop()
    pi.start("b")
    for _ in range(2):
        with pytest.raises(RefusedError, match="CHANGED") as caught:
            device("pi").facts()
    assert pi.fingerprint("a") in caught.value.why
    assert pi.fingerprint("b") in caught.value.why
    assert f"devices trust pi --fingerprint {pi.fingerprint('b')}" in caught.value.fix
    assert "Accepted" not in pi.log.read_text()
    assert isinstance(_cli("trust", "pi", "--fingerprint", pi.fingerprint("a")).exception, RefusedError)
    assert _cli("trust", "pi", "--fingerprint", pi.fingerprint("b")).exit_code == 0
    assert device("pi").facts().fingerprint


@pytest.mark.parametrize("host", ["-oProxyCommand=touch canary", "-oProxyCommand=touch${IFS}canary", "edge@-oX", "a b"])
def test_a_host_that_is_an_option_is_refused(
    private_places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """What ssh would read as an option never reaches it."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(_cli("add", "pi", "--ssh", host).exception, RefusedError)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_host_is_an_error_of_the_device(private_places: Path) -> None:
    """A name that cannot be resolved, and a port that nobody listens on, are device errors with a remedy."""
    for address in ("nobody@does-not-exist.invalid", "nobody@127.0.0.1:1"):
        error = _cli("add", "pi", "--ssh", address).exception
        assert isinstance(error, DeviceError)
        assert "ssh" in error.fix


def test_without_a_key_nobody_is_asked(pi: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no key logs us in, the error says so at once; no password is asked for."""
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(DeviceError, match="cannot be reached") as caught:
        device("pi").facts()
    assert "ssh-copy-id" in caught.value.fix


def test_files_go_there_and_arrays_come_back(pi: Board, tmp_path: Path) -> None:
    """Files are put, checked there and used; arrays come back; all is removed at the end but the program."""
    engine_folder, samples = _small_engine(tmp_path)
    with device("pi").session() as session:
        session.put(engine_folder, "e")
        session.put(samples, "samples.npz")
        assert sorted(name.rpartition("/")[2] for name in pi.files() if "/sessions/" in name) >= ["engine.json"]
        answer = session.run(
            ["infer", "e", "--inputs", "samples.npz", "--out", "result.npz"], timeout_s=60, fetch=tmp_path / "got.npz"
        )
    assert answer.result["samples"] == 4
    with np.load(tmp_path / "got.npz") as got:
        assert got["y"].shape == (4, 4)
    left = [name for name in pi.files() if not name.endswith(".pyz")]
    assert left == [".edgepress/lock"]


def test_a_board_without_sftp_is_served(board: Board, conftest: ModuleType, tmp_path: Path) -> None:
    """Where the server has no sftp, files go and come by scp's own program there, checked as ever."""
    board.start(sftp=False)
    conftest.register(board)
    engine_folder, samples = _small_engine(tmp_path)
    with device("pi").session() as session:
        session.put(engine_folder, "e")
        session.put(samples, "samples.npz")
        command = ["infer", "e", "--inputs", "samples.npz", "--out", "result.npz"]
        session.run(command, timeout_s=60, fetch=tmp_path / "got.npz")
    with np.load(tmp_path / "got.npz") as got:
        assert got["y"].shape == (4, 4)


def test_the_same_content_is_sent_once(pi: Board, tmp_path: Path) -> None:
    """What is there already is not sent again; what changed is."""
    source = tmp_path / "data.bin"
    source.write_bytes(b"1" * 1000)
    with device("pi").session() as session:
        session.put(source, "data.bin")
        [first] = pi.home.rglob("data.bin")
        before = first.stat().st_ino
        session.put(source, "data.bin")
        assert first.stat().st_ino == before
        source.write_bytes(b"2" * 1000)
        session.put(source, "data.bin")
        assert first.read_bytes() == b"2" * 1000


def test_two_users_are_served_one_after_the_other(pi: Board) -> None:
    """While one session holds the device, a second one waits, and begins when the first has ended."""
    order = []

    def second() -> None:
        with device("pi").session(wait_s=60):
            order.append("second")

    with device("pi").session():
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(DeviceError, match="in use") as caught, device("pi").session(wait_s=0):
            pass
        assert "process" in caught.value.why
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_full_disk_there_is_named(board: Board, conftest: ModuleType, tmp_path: Path) -> None:
    """A file too large for the device's disk: the error names device and size, and the session goes on."""
    board.start(disk_kb=2000)
    conftest.register(board)
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(4_000_000))
    with device("pi").session() as session:
        with pytest.raises(EnvironmentFailure, match="disk of device 'pi' is full") as caught:
            session.put(large, "large.bin")
        assert "4.0 MB" in caught.value.why
        assert session.facts().fingerprint


def test_a_missing_python_is_named(board: Board, conftest: ModuleType) -> None:
    """Without Python there, the error says what to install on the device."""
    board.start()
    conftest.register(board, python="/usr/bin/no-such-python3")
    with pytest.raises(DeviceError, match="no-such-python3") as caught:
        device("pi").facts()
    assert "install it there" in caught.value.fix


def test_what_a_login_prints_is_no_answer(pi: Board) -> None:
    """Noise of a shell's start-up files, control characters and all, disturbs no answer."""
    (pi.home / ".ssh").mkdir()
    (pi.home / ".ssh" / "rc").write_text("printf 'welcome \\033[31m {\"nonce\": 1}\\n'\n")
    with device("pi").session() as session:
        assert session.facts().fingerprint


def test_a_command_of_the_user_runs_there(pi: Board, capfd: pytest.CaptureFixture[str]) -> None:
    """`devices shell` runs exactly the words given, and ends as they do."""
    done = _cli("shell", "pi", "--", "echo", "a b", "$(id)")
    assert capfd.readouterr().out == "a b $(id)\n"
    assert done.exit_code == 0
    assert _cli("shell", "pi", "--", "sh", "-c", "exit 7").exit_code == 7


def test_a_removed_device_is_unknown(pi: Board) -> None:
    """`devices rm` forgets it."""
    assert _cli("rm", "pi").exit_code == 0
    with pytest.raises(InputError, match="pi"):
        device("pi")


def test_a_session_logs_in_once(pi: Board) -> None:
    """Commands share one connection: the second costs no second login."""
    with device("pi").session() as session:
        session.facts()
        logins = pi.log.read_text().count("Accepted publickey")
        session.facts()
    assert pi.log.read_text().count("Accepted publickey") == logins == 1


def _small_engine(folder: Path) -> tuple[Path, Path]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from targets.engines import engine
    from targets.profile import load_profile

    weights = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.save(model, str(folder / "m.onnx"))
    build = engine("onnxruntime").build(folder / "m.onnx", load_profile("host"), folder / "engine", precision="fp32")
    np.savez(folder / "samples.npz", x=np.ones((4, 8), np.float32))
    return build.folder, folder / "samples.npz"
