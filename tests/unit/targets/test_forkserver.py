"""targets.forkserver: a fork of what is loaded is as limited, as alone and as mortal as any other child."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from targets import forkserver
from targets.errors import EdgepressError, EnvironmentFailure
from targets.forkserver import ForkServer, fork_server
from targets.process import Limits, call_limited
from targets.supervised import Supervised

_LIMITS = Limits(timeout_s=60)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private folders are made."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids of forks that were given a call."""
    pids: list[int] = []
    call = ForkServer.call

    def noted(self: ForkServer, *arguments: object, **named: object) -> Supervised | None:
        child = call(self, *arguments, **named)  # type: ignore[arg-type]
        pids.extend([] if child is None else [child.pid])
        return child

    monkeypatch.setattr(ForkServer, "call", noted)
    return pids


@pytest.fixture(autouse=True)
def _few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded does not matter here, but for the time it takes."""
    monkeypatch.setattr("targets.forkserver._LOADERS", ("json", "no_such_module", "json:no_such_function"))


@pytest.fixture
def served(forks: list[int]) -> Iterator[list[int]]:
    """A server is there; the pids of its forks."""
    with fork_server():
        yield forks


def _call(
    value: object, limits: Limits = _LIMITS, function: str = "builtins:dict", **more: Mapping[str, str]
) -> dict[str, object]:
    return call_limited(function, {"a": value}, limits=limits, what="a test", **more)  # type: ignore[arg-type]


def _server() -> ForkServer:
    assert forkserver._KEEPER is not None
    server = forkserver._KEEPER._server
    assert server is not None
    return server


def _is_gone(pid: int) -> bool:
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def _family(pid: int) -> list[int]:
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_every_call_has_a_process_of_its_own(served: list[int], temporary: Path) -> None:
    """Each call is another fork of one server, which ends with its call; nothing is left behind."""
    assert _call(0) == {"a": 0}
    server = _server()
    assert [_call(number) for number in range(1, 4)] == [{"a": number} for number in range(1, 4)]
    assert _server() is server
    assert len(set(served)) == 4
    assert all(_is_gone(pid) for pid in served)
    assert list(temporary.iterdir()) == []


def test_no_call_finds_what_another_left(served: list[int], tmp_path: Path) -> None:
    """A call cannot change what the next one starts from: its modules, its working folder, its environment."""
    (tmp_path / "request").write_text("x")
    with pytest.raises(RuntimeError, match="Traceback"):
        _call(1, function="this:anything")  # imports a module that prints, in that fork only
    told = call_limited("builtins:dict", {"a": 1}, limits=_LIMITS, what="a test", cwd=tmp_path)
    assert told == {"a": 1}
    assert len(served) == 2
    names = Path(f"/proc/{_family(_server().process.pid)[1]}/cwd").readlink()
    assert str(names) == "/"


def test_it_ends_with_its_block(forks: list[int]) -> None:
    """Outside of the block there is no server, no supervisor of one, and calls start Pythons of their own."""
    with fork_server():
        _call(1)
        family = _family(_server().process.pid)
    assert len(family) == 2
    assert all(_is_gone(pid) for pid in family)
    assert forkserver._KEEPER is None
    assert _call(2) == {"a": 2}
    assert len(forks) == 1


def test_answers_and_errors_are_the_same(served: list[int]) -> None:
    """An error crosses the border as from a new child: it has the same home, which is nobody's."""
    told = []
    for env in ({}, {"EDGEPRESS_TEST": "1"}):
        with pytest.raises(EdgepressError) as caught:
            call_limited("pipeline.store:default_store_root", {}, limits=_LIMITS, what="a test", env=env)
        told.append(caught.value.to_json())
    assert told[0] == told[1]
    assert len(served) == 1


def test_own_bug_comes_with_its_traceback(served: list[int]) -> None:
    """Any other exception is a RuntimeError that holds the child's traceback."""
    with pytest.raises(RuntimeError, match="dumps_typo"):
        _call(1, function="json:dumps_typo")
    assert len(served) == 1


def test_a_call_cannot_leave_by_an_exit(served: list[int]) -> None:
    """A fork that wants to exit ends as a failed call, and never goes on as its parent would."""
    with pytest.raises(RuntimeError, match="SystemExit"):
        _call(1, function="sys:exit")
    assert _call(2) == {"a": 2}
    assert len(served) == 2


def test_limits_hold(served: list[int]) -> None:
    """Limits of time, of memory and of files hold for one call, and are told as ever."""
    with pytest.raises(EnvironmentFailure, match="longer than its limit"):
        _call(1, Limits(timeout_s=0.0))
    with pytest.raises(EnvironmentFailure, match="ran out of memory"):
        _call("x" * 30_000_000, Limits(timeout_s=60, memory_bytes=32_000_000))
    with pytest.raises(EnvironmentFailure, match=r"over 1\.0 MB"):
        _call("x" * 3_000_000, Limits(timeout_s=60, file_bytes=1_000_000))
    assert len(_call("x" * 3_000_000)) == 1
    assert len(served) == 4
    assert all(_is_gone(pid) for pid in served)


@pytest.mark.parametrize("who", ["supervisor", "server"])
def test_a_server_that_died_is_replaced(who: str, served: list[int]) -> None:
    """A server that was killed between two calls is no error: there is a new one."""
    _call(1)
    first = _server()
    family = _family(first.process.pid)
    os.kill(family[0 if who == "supervisor" else 1], signal.SIGKILL)
    assert all(_is_gone(pid) for pid in family)
    assert _call(2) == {"a": 2}
    assert _server() is not first
    assert len(served) == 2


@pytest.mark.parametrize("who", ["supervisor", "server"])
def test_a_call_dies_with_its_server(who: str, served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server is killed during a call, that is told as what it is, and nothing of the call goes on."""
    wait = Supervised.wait

    def killed(self: Supervised, *arguments: object, **named: object) -> object:
        os.kill(_family(_server().process.pid)[0 if who == "supervisor" else 1], signal.SIGKILL)
        return wait(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Supervised, "wait", killed)
    with pytest.raises(EnvironmentFailure, match="a test"):
        call_limited("signal:sigwait", {}, limits=_LIMITS, what="a test")
    assert all(_is_gone(pid) for pid in served)


def test_orphans_of_a_killed_fork_are_found(served: list[int], tmp_path: Path) -> None:
    """When a fork's supervisor is killed, what came from it dies too, in a session of its own and without exec."""
    with pytest.raises(EnvironmentFailure, match="was killed"):
        _call(str(tmp_path / "pid"), function="tests.unit.targets.leaving:leave_an_orphan")
    assert _is_gone(int((tmp_path / "pid").read_text()))
    assert len(served) == 1
    assert _call(2) == {"a": 2}


def test_one_that_does_not_answer_is_not_waited_for_again(served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """No late answer is taken for that of another call: a silent server is ended, and later calls have no forks."""
    monkeypatch.setattr("targets.forkserver._PATIENCE_S", 0.3)
    _call(1)
    family = _family(_server().process.pid)
    os.kill(family[1], signal.SIGSTOP)
    assert [_call(number) for number in (2, 3)] == [{"a": 2}, {"a": 3}]
    assert all(_is_gone(pid) for pid in family)
    assert len(served) == 1


def test_an_interrupt_leaves_no_fork(served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between question and answer ends the server with what it may have forked, and stays what it is."""
    _call(1)
    family = _family(_server().process.pid)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("targets.forkserver.readable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _call(2)
    assert all(_is_gone(pid) for pid in family)
    assert len(served) == 1


def test_descriptors_are_given_back(served: list[int]) -> None:
    """Neither here nor in the server does a call leave open files; numbers above 1023 are as good as others."""
    _call(1)
    server = _family(_server().process.pid)[1]
    before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), server)]  # noqa: PTH208
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert _call(2) == {"a": 2}
        assert call_limited("builtins:dict", {}, limits=_LIMITS, what="a test", env={"X": "1"}) == {}
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _call(3)
    assert [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), server)] == before  # noqa: PTH208
    assert len(served) == 3


def test_a_changed_environment_is_heard(served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server inherited is no longer so: there is a new one; variables of one call are that call's."""
    _call(1)
    first = _server()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert _call(2) == {"a": 2}
    assert _server() is not first
    assert _call(3, env={"OMP_NUM_THREADS": "1"}) == {"a": 3}
    assert len(served) == 2


def test_other_threads_start_their_own(served: list[int]) -> None:
    """The kernel ends a server with the thread that started it: no other thread is given it, and none starts one."""
    _call(1)
    before, answers = _server(), []
    thread = threading.Thread(target=lambda: answers.append(_call(2)))
    thread.start()
    thread.join()
    assert answers == [{"a": 2}]
    assert _call(3) == {"a": 3}
    assert _server() is before
    assert len(served) == 2


def test_what_a_call_needed_is_loaded_for_the_next(served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A heavy module that one call had to load is loaded before the next ones are forked."""
    monkeypatch.setattr("targets.forkserver.HEAVY", {"onnx_ir": "onnx_ir"})
    request = {"model": "/no/such.onnx", "precision": "int8-weights", "out_folder": "/no/such"}
    with pytest.raises(EdgepressError):
        call_limited("calibration.child_formats:convert_in_child", request, limits=_LIMITS, what="a test")
    server = _family(_server().process.pid)[1]
    before = Path(f"/proc/{server}/maps").read_text().count("onnx_cpp2py")
    _call(2)
    assert before == 0
    assert Path(f"/proc/{server}/maps").read_text().count("onnx_cpp2py") > 0
    assert len(served) == 2


def test_a_message_that_is_too_long_is_no_error(served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that does not fit into one message starts a Python of its own."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "x" * 70_000)
    assert _call(1) == {"a": 1}
    assert served == []


def test_it_dies_with_us(tmp_path: Path) -> None:
    """Even after SIGKILL of the parent neither the server nor its supervisor stays."""
    program = (
        "import sys\n"
        "from targets import forkserver\n"
        "from targets.process import Limits, call_limited\n"
        "with forkserver.fork_server():\n"
        "    call_limited('builtins:dict', {}, limits=Limits(timeout_s=60), what='x')\n"
        "    print(forkserver._KEEPER._server.process.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        family = _family(int(parent.stdout.readline()))
        parent.kill()
    assert len(family) == 2
    assert all(_is_gone(pid) for pid in family)
