"""What a device sends back is data: only a valid answer to this very question is used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, final

import pytest

from targets.devices.base import MAX_ANSWER_BYTES, Device, RawAnswer
from targets.errors import DeviceError, EdgepressError, EnvironmentFailure, InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@final
class _Scripted(Device):
    """Answers what the script makes of the nonce."""

    kind = "scripted"

    def __init__(self, script: Callable[[str], bytes], code: int = 0, stderr: bytes = b"") -> None:
        self._script, self._code, self._stderr = script, code, stderr

    def _run(self, folder: Path | None, command: Sequence[str], timeout_s: float) -> RawAnswer:
        answer = self._script(command[command.index("--nonce") + 1])
        return RawAnswer(returncode=self._code, stdout=answer, stderr=self._stderr, wall_s=0.1)


def _document(nonce: str, **fields: object) -> bytes:
    return json.dumps({"command": "facts", "nonce": nonce, "result": {"a": 1}, **fields}).encode()


def test_a_valid_answer_is_passed_on() -> None:
    """The result object of a valid answer is returned as it is."""
    assert _Scripted(_document).run(None, ["facts"], timeout_s=1).result == {"a": 1}


@pytest.mark.parametrize(
    "script",
    [
        lambda _: b"",
        lambda _: b"\xff\xfe",
        lambda _: b"Segmentation fault",
        lambda n: _document(n)[:-5],
        lambda n: _document(n) * 2,
        lambda _: _document("stale"),
        lambda n: _document(n, command="verify"),
        lambda n: _document(n, result=[1]),
        lambda n: _document(n, result=None),
        lambda n: _document(n, result={"v": float("nan")}),
        lambda n: _document(n).replace(b'"a": 1', b'"a": 1e999'),
        lambda n: b'{"nonce":' + b"[" * 100_000,
        lambda n: _document(n, result={"deep": json.loads("[" * 30 + "]" * 30)}),
        lambda _: b"[1]",
        lambda n: _document(n, pad="x" * MAX_ANSWER_BYTES),
    ],
)
def test_garbage_is_an_error_of_the_device(script: Callable[[str], bytes]) -> None:
    """Empty, torn, doubled, stale, foreign, infinite, deep and huge answers: a device error, never a result."""
    with pytest.raises(DeviceError):
        _Scripted(script).run(None, ["facts"], timeout_s=1)


def test_a_result_with_a_failing_exit_code_is_no_result() -> None:
    """A process that died after it wrote its answer has not answered."""
    with pytest.raises(DeviceError):
        _Scripted(_document, code=-9).run(None, ["facts"], timeout_s=1)


@pytest.mark.parametrize(
    ("code", "kind"), [(3, InputError), (4, RefusedError), (5, EnvironmentFailure), (6, DeviceError)]
)
def test_reported_errors_keep_their_class(code: int, kind: type[EdgepressError]) -> None:
    """An error that the program reports arrives as the same class, without control characters of the device."""

    def script(nonce: str) -> bytes:
        error = {"what": "w\x1b[31m", "why": "y\r\n", "fix": "f"}
        return json.dumps({"command": "facts", "nonce": nonce, "error": error}).encode()

    with pytest.raises(kind) as caught:
        _Scripted(script, code=code).run(None, ["facts"], timeout_s=1)
    assert caught.value.fix == "f"
    assert "\x1b" not in str(caught.value)
    assert "\r" not in str(caught.value)


def test_a_bug_of_the_program_shows_its_traceback() -> None:
    """Exit code 70 is our own bug, and carries the traceback of the device."""

    def script(nonce: str) -> bytes:
        return json.dumps({"nonce": nonce, "error": {"what": "a", "why": "KeyError", "fix": "c"}}).encode()

    with pytest.raises(RuntimeError, match="line 7"):
        _Scripted(script, code=70, stderr=b"File x, line 7").run(None, ["facts"], timeout_s=1)
