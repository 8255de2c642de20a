"""targets.ready: a child that loaded beforehand is as limited, as alone and as mortal as any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets import ready
from targets.errors import EdgepressError, EnvironmentFailure
from targets.process import Limits, call_limited, run_limited
from targets.ready import ReadyChild, child_kept_ready

_LIMITS = Limits(timeout_s=60)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private folders are made."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids of ready children that were given a call."""
    pids: list[int] = []
    order = ReadyChild.order

    def noted(self: ReadyChild, *arguments: object, **named: object) -> bool:
        pids.append(_pid(self))
        return order(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ReadyChild, "order", noted)
    return pids


@pytest.fixture(autouse=True)
def _few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded does not matter here, but for the time it takes."""
    monkeypatch.setattr("targets.ready._LOADED", ("json", "no_such_module"))


@pytest.fixture
def kept(ordered: list[int]) -> Iterator[list[int]]:
    """One call is over, so that a child is ready for the next."""
    with child_kept_ready():
        assert _call(1) == {"a": 1}
        assert ordered == []
        yield ordered


def _call(value: object, limits: Limits = _LIMITS, function: str = "builtins:dict") -> dict[str, object]:
    return call_limited(function, {"a": value}, limits=limits, what="a test")


def _pid(child: ReadyChild) -> int:
    return child.process._process.pid


def _waiting() -> ReadyChild:
    assert ready._KEEPER is not None
    child = ready._KEEPER._child
    assert child is not None
    return child


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


def test_every_call_has_a_process_of_its_own(kept: list[int], temporary: Path) -> None:
    """Each call after the first finds another child ready, which ends with its call; nothing is left behind."""
    assert [_call(number) for number in range(3)] == [{"a": number} for number in range(3)]
    assert len(set(kept)) == 3
    assert all(_is_gone(pid) for pid in kept)
    assert list(temporary.iterdir()) == []


def test_the_last_one_ends_unused(ordered: list[int]) -> None:
    """A child that nobody called ends where it is not kept any more, and its supervisor with it."""
    with child_kept_ready():
        _call(1)
        waiting = _waiting()
        assert waiting.has_loaded()
        family = _family(_pid(waiting))
    assert len(family) == 2
    assert all(_is_gone(pid) for pid in family)
    assert ordered == []
    assert ready._KEEPER is None


def test_answers_and_errors_are_the_same(kept: list[int]) -> None:
    """An error crosses the border as from a new child: it has the same home, which is nobody's."""
    told = []
    for env in ({}, {"EDGEPRESS_TEST": "1"}):
        with pytest.raises(EdgepressError) as caught:
            call_limited("pipeline.store:default_store_root", {}, limits=_LIMITS, what="a test", env=env)
        told.append(caught.value.to_json())
    assert told[0] == told[1]
    assert len(kept) == 1


def test_own_bug_comes_with_its_traceback(kept: list[int]) -> None:
    """Any other exception is a RuntimeError that holds the child's traceback."""
    with pytest.raises(RuntimeError, match="Traceback"):
        _call(1, function="json:dumps_typo")
    assert len(kept) == 1


def test_limits_hold(kept: list[int]) -> None:
    """Limits of time, of memory and of files hold from the call on, and are told as ever."""
    with pytest.raises(EnvironmentFailure, match="longer than its limit"):
        _call(1, Limits(timeout_s=0.0))
    _call(1)  # after a failure a new one is made ready
    with pytest.raises(EnvironmentFailure, match="ran out of memory"):
        _call("x" * 30_000_000, Limits(timeout_s=60, memory_bytes=32_000_000))
    _call(1)
    with pytest.raises(EnvironmentFailure, match=r"over 1\.0 MB"):
        _call("x" * 3_000_000, Limits(timeout_s=60, file_bytes=1_000_000))
    assert len(kept) == 3
    assert all(_is_gone(pid) for pid in kept)


@pytest.mark.parametrize("who", ["supervisor", "child"])
def test_one_that_died_is_replaced(who: str, kept: list[int]) -> None:
    """A child that was killed while it waited is no error: the call has a new one."""
    waiting = _waiting()
    assert waiting.has_loaded()
    family = _family(_pid(waiting))
    os.kill(family[0 if who == "supervisor" else 1], signal.SIGKILL)
    assert all(_is_gone(pid) for pid in family)
    assert _call(2) == {"a": 2}
    assert _call(3) == {"a": 3}
    assert len(kept) == 2
    assert kept[1] not in family


def test_what_a_call_needed_is_loaded_for_the_next(kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A heavy module that one call had to load is loaded beforehand from then on."""
    made: list[tuple[str, ...]] = []
    begin = ReadyChild.__init__
    monkeypatch.setattr(ReadyChild, "__init__", lambda self, loaders: made.append((*loaders,)) or begin(self, loaders))
    monkeypatch.setattr("targets.ready.HEAVY", {"onnx_ir": "heavy_one", "openvino": "heavy_two"})
    request = {"model": "/no/such.onnx", "precision": "int8-weights", "out_folder": "/no/such"}
    with pytest.raises(EdgepressError):
        call_limited("calibration.child_formats:convert_in_child", request, limits=_LIMITS, what="a test")
    _call(2)
    assert [loaders[2:] for loaders in made] == [("heavy_one",), ("heavy_one",)]
    assert len(kept) == 2


def test_a_changed_environment_is_heard(kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that inherited what is no longer so is not used."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert _call(2) == {"a": 2}
    assert kept == []


def test_other_threads_have_their_own(kept: list[int]) -> None:
    """The kernel ends a child with the thread that started it: no other thread is given it, and none starts one."""
    before, answers = _waiting(), []
    thread = threading.Thread(target=lambda: answers.append(_call(2)))
    thread.start()
    thread.join()
    assert answers == [{"a": 2}]
    assert kept == []
    assert _waiting() is before
    assert _call(3) == {"a": 3}


def test_what_is_measured_waits_for_it(kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """No program starts while a child is loading, whichever thread asks."""
    seen = []
    monkeypatch.setattr(ReadyChild, "has_loaded", lambda self: bool(seen.append(_pid(self))) or True)
    run = threading.Thread(target=lambda: run_limited(["true"], limits=_LIMITS, what="a test"))
    run.start()
    run.join()
    assert seen == [_pid(_waiting())]
    assert kept == []


def test_nothing_is_kept_outside_of_it() -> None:
    """Without `child_kept_ready` no child is started for later."""
    _call(1)
    assert ready._KEEPER is None


def test_it_dies_with_us(tmp_path: Path) -> None:
    """Even after SIGKILL of the parent no child goes on waiting."""
    program = (
        "import os, signal, sys\n"
        "from targets import ready\n"
        "from targets.process import Limits, call_limited\n"
        "with ready.child_kept_ready():\n"
        "    call_limited('builtins:dict', {}, limits=Limits(timeout_s=60), what='x')\n"
        "    ready.settle()\n"
        "    print(ready._KEEPER._child.process._process.pid, flush=True)\n"
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
