"""targets.process: limits hold, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from targets import process
from targets.child import HEAVY, call_function
from targets.errors import EnvironmentFailure, InputError
from targets.process import ChildResult, Limits, call_limited, run_limited

_LIMITS = Limits(timeout_s=30)
_FAMILY = (
    "import subprocess, sys, time, os; from pathlib import Path\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
    "Path(sys.argv[1]).write_text(f'{os.getpid()} {child.pid}')\n"
    "if len(sys.argv) == 2: time.sleep(60)\n"
)
_DAEMON = (
    "import os, sys, time, signal; from pathlib import Path\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "reading, writing = os.pipe()\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        os.setsid(); os.write(writing, b'%d' % os.getpid()); [os.close(n) for n in range(3)]; time.sleep(60)\n"
    "    os._exit(0)\n"
    "daemon = int(os.read(reading, 20))\n"
    "Path(sys.argv[1]).write_text(f'{os.getpid()} {daemon}')\n"
    "if len(sys.argv) == 2: time.sleep(60)\n"
)


def _python(program: str, *arguments: str, limits: Limits = _LIMITS, **options: object) -> ChildResult:
    argv = [sys.executable, "-S", "-c", program, *arguments]
    return run_limited(argv, limits=limits, what="a test", **options)  # type: ignore[arg-type]


def _is_gone(pid: int) -> bool:
    for _ in range(300):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True  # dead, and not yet reaped by whoever inherited it
        time.sleep(0.01)
    return False


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that private folders are made in; must be empty afterwards."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_result_is_complete(temporary: Path) -> None:
    """Status, both outputs (more than a pipe holds), time and peak memory come back, and the folder goes."""
    program = "import sys; x = b'x' * 50_000_000; sys.stdout.write('o' * 300_000); sys.stderr.write('e'); sys.exit(3)"
    result = _python(program)
    assert (result.returncode, result.stdout, result.stderr) == (3, b"o" * 300_000, b"e")
    assert 50_000_000 < result.peak_rss_bytes < 150_000_000
    assert result.wall_s > 0
    assert list(temporary.iterdir()) == []


def test_peak_memory_is_the_childs_own() -> None:
    """A parent that needs much memory is not charged to the child."""
    ballast = b"x" * 200_000_000
    assert _python("pass").peak_rss_bytes < 100_000_000 < len(ballast)


def test_environment_is_scrubbed(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """A secret of ours is not seen; telemetry is off; home, TMPDIR and working folder are private and empty."""
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    monkeypatch.setenv("PYTHONPATH", "canary")
    program = (
        "import os, json; e = dict(os.environ)\n"
        "print(json.dumps([e, os.getcwd(), os.listdir(), os.listdir(e['TMPDIR']), os.listdir(e['HOME'])]))"
    )
    seen, cwd, *contents = json.loads(_python(program, env={"MINE": "1"}).stdout)
    assert "canary" not in seen.values()
    assert (seen["MINE"], seen["ORT_DISABLE_TELEMETRY"]) == ("1", "1")
    assert all(Path(path).is_relative_to(temporary) for path in (cwd, seen["TMPDIR"], seen["HOME"]))
    assert contents == [[], [], []]


def test_working_folder_can_be_given(tmp_path: Path) -> None:
    """A working folder that is given is used and kept."""
    assert _python("import os; print(os.getcwd())", cwd=tmp_path).stdout.decode().strip() == str(tmp_path.resolve())
    assert tmp_path.is_dir()


def test_standard_input_is_closed_and_group_is_new() -> None:
    """The child reads an empty standard input, has no descriptor of ours and a process group and session of its own."""
    program = (
        "import os, sys; print(repr(sys.stdin.read()), os.getpgrp(), os.getsid(0), sorted(os.listdir('/proc/self/fd')))"
    )
    with Path("/dev/null").open("rb") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        text, group, session, descriptors = _python(program).stdout.decode().split(maxsplit=3)
    assert text == "''"
    assert int(group) != os.getpgrp()
    assert int(session) != os.getsid(0)
    assert descriptors.strip() == "['0', '1', '2', '3']"  # 3 is the listing itself


def test_time_out_kills_the_family(tmp_path: Path, temporary: Path) -> None:
    """At the time-out children of the child die too, and the message names the limit."""
    with pytest.raises(EnvironmentFailure, match=r"limit of 1 s") as caught:
        _python(_FAMILY, str(tmp_path / "pids"), limits=Limits(timeout_s=1))
    assert caught.value.what == "a test was stopped"
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    assert all(_is_gone(int(pid)) for pid in pids)
    assert list(temporary.iterdir()) == []


def test_time_out_beats_a_child_that_ignores_it() -> None:
    """A child that ignores SIGTERM is killed."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    with pytest.raises(EnvironmentFailure, match="longer than its limit"):
        _python(program, limits=Limits(timeout_s=0.5))


def test_orphans_are_ended(tmp_path: Path) -> None:
    """A child that ends while its own child still runs does not keep us waiting, and the grandchild dies."""
    assert _python(_FAMILY, str(tmp_path / "pids"), "end").returncode == 0
    assert all(_is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("ending", ["its end", "its time-out", "a killed supervisor"])
def test_a_grandchild_in_a_session_of_its_own_does_not_escape(ending: str, tmp_path: Path) -> None:
    """Promise R7: a grandchild that left group and session (a daemon) dies with the child, however that ends."""
    pids = tmp_path / "pids"
    if ending == "its end":
        assert _python(_DAEMON, str(pids), "end").returncode == 0
    else:
        told = "longer than its limit" if ending == "its time-out" else "was killed"
        program = _DAEMON if ending == "its time-out" else _DAEMON + "os.kill(os.getppid(), 9); time.sleep(60)\n"
        with pytest.raises(EnvironmentFailure, match=told):
            _python(program, str(pids), *([] if ending == "its time-out" else ["end"]), limits=Limits(timeout_s=2))
    assert len(pids.read_text().split()) == 2
    assert all(_is_gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize("family", [_FAMILY, _DAEMON], ids=["in its group", "in sessions of their own"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_family_dies_with_us(number: signal.Signals, family: str, tmp_path: Path) -> None:
    """When a signal ends the parent, even SIGKILL, the child and its children die, whatever session they are in."""
    program = (
        "import sys; from targets.process import run_limited, Limits\n"
        f"run_limited([sys.executable, '-S', '-c', {family!r}, sys.argv[1]], limits=Limits(timeout_s=60), what='x')\n"
    )
    pids = tmp_path / "pids"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(pids)],
        stderr=subprocess.DEVNULL,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a background shell ignores it
    ) as parent:
        for _ in range(1000):
            if pids.exists() and len(pids.read_text().split()) == 2:
                break
            time.sleep(0.01)
        parent.send_signal(number)
    assert parent.returncode == -number
    assert all(_is_gone(int(pid)) for pid in pids.read_text().split())


def test_memory_limit_is_told_as_such() -> None:
    """A child over its memory limit is reported as out of memory, with the limit."""
    with pytest.raises(EnvironmentFailure, match="ran out of memory") as caught:
        _python("x = bytearray(1 << 30)", limits=Limits(timeout_s=30, memory_bytes=200_000_000))
    assert "200.0 MB" in caught.value.why


def test_killed_child_is_told_as_out_of_memory() -> None:
    """A child that somebody else killed with SIGKILL, as the kernel does, is reported as out of memory."""
    with pytest.raises(EnvironmentFailure, match="ran out of memory"):
        _python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_file_limit_is_told_as_such(tmp_path: Path) -> None:
    """A child that writes a too large file is stopped, and the message names the limit."""
    program = "import sys; open(sys.argv[1], 'wb').write(b'x' * 3_000_000)"
    with pytest.raises(EnvironmentFailure, match=r"over 1\.0 MB"):
        _python(program, str(tmp_path / "big"), limits=Limits(timeout_s=30, file_bytes=1_000_000))
    assert (tmp_path / "big").stat().st_size <= 1_000_000


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_limit_is_told_as_such(stream: str) -> None:
    """A child that writes for ever is stopped, and the message names the limit."""
    with pytest.raises(EnvironmentFailure, match=r"over 1\.0 MB of output"):
        _python(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)", stdout_limit_bytes=1_000_000)


def test_missing_program_is_told() -> None:
    """A program that is not there is an EnvironmentFailure that names it."""
    with pytest.raises(EnvironmentFailure, match="cannot start 'no-such-program'"):
        run_limited(["no-such-program"], limits=_LIMITS, what="a test")


def test_signal_that_ends_the_child_is_its_status() -> None:
    """A crash of the child is its negative signal number, for the caller to judge."""
    assert _python("import os; os.abort()").returncode == -signal.SIGABRT


def test_call_returns_the_answer(temporary: Path) -> None:
    """A dict goes in and a dict comes back, through JSON."""
    assert call_limited("builtins:dict", {"a": [1, 2.5, "ü"]}, limits=_LIMITS, what="a test") == {"a": [1, 2.5, "ü"]}
    assert list(temporary.iterdir()) == []


def test_call_crosses_the_border_with_its_error() -> None:
    """An error raised on purpose in the child is the same error here."""
    with pytest.raises(EnvironmentFailure) as caught:
        call_limited("pipeline.store:default_store_root", {}, limits=_LIMITS, what="a test")
    assert caught.value.what == "there is no place for the cache"
    assert "EDGEPRESS_CACHE" in caught.value.fix


def test_own_bug_comes_with_its_traceback() -> None:
    """Any other exception in the child is a RuntimeError that holds the child's traceback."""
    with pytest.raises(RuntimeError, match="Traceback") as caught:
        call_limited("json:dumps_typo", {}, limits=_LIMITS, what="a test")
    assert "dumps_typo" in str(caught.value)


def test_answer_must_be_a_dict() -> None:
    """A function that answers with anything else is our own bug."""
    with pytest.raises(TypeError, match="must return a dict"):
        call_limited("builtins:list", {"a": 1}, limits=_LIMITS, what="a test")


def test_request_is_finite() -> None:
    """A NaN does not travel."""
    with pytest.raises(ValueError, match="Out of range"):
        call_limited("builtins:dict", {"a": float("nan")}, limits=_LIMITS, what="a test")


def test_far_side_writes_result_or_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The far side of the border answers with a result or with an error as plain data."""
    (tmp_path / "far_side_example.py").write_text(
        "from targets.errors import InputError\n"
        "def run(request):\n"
        "    if request['bad']: raise InputError('a', 'b', 'c')\n"
        "    return {'good': 1}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    answers = []
    for bad in (False, True):
        (tmp_path / "request").write_text(json.dumps({"bad": bad}))
        assert call_function("far_side_example:run", str(tmp_path / "request"), str(tmp_path / "answer")) == 0
        answers.append(json.loads((tmp_path / "answer").read_text()))
    loaded = [name for name in HEAVY if name in sys.modules]
    assert answers == [
        {"result": {"good": 1}, "loaded": loaded},
        {"error": InputError("a", "b", "c").to_json(), "loaded": loaded},
    ]


def test_importing_it_is_light() -> None:
    """Importing process and store loads neither numpy nor torch nor pydantic: a cached run pays nothing for them."""
    program = (
        "import sys, targets.process, pipeline.store; print(*{'numpy', 'torch', 'pydantic', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)
    assert done.stdout == b"\n"
    assert process.__name__ == "targets.process"


def test_killed_supervisor_is_told_as_such() -> None:
    """Whatever kills the child from outside, its supervisor included, is told as that and not as our own bug."""
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
    with pytest.raises(EnvironmentFailure, match="was killed"):
        run_limited([sys.executable, "-c", code], limits=Limits(timeout_s=30), what="the work")


def test_a_crash_of_native_code_is_no_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that a signal ends is told with the signal's name, as a failure of the environment: a run can go on."""
    ended = ChildResult(returncode=-signal.SIGSEGV, stdout=b"", stderr=b"", wall_s=0.1, peak_rss_bytes=1)
    monkeypatch.setattr("targets.process._run", lambda *_: ended)
    with pytest.raises(EnvironmentFailure, match=r"a test crashed \(SIGSEGV\)"):
        call_limited("builtins:dict", {}, limits=_LIMITS, what="a test")
