"""What every device does: say what it is, and run the device program. Its answers are data, checked before use."""

from __future__ import annotations

import json
import math
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from targets.errors import DeviceError
from targets.ondevice_errors import project_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAX_ANSWER_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 12
_MAX_TEXT: Final = 4096
_FACTS_TIMEOUT_S: Final = 60.0
_OWN_BUG: Final = 70
_FIX: Final = "check that the device is up and nobody else uses it, then run the same command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a device says it is; None where it does not tell.

    Attributes:
        fingerprint: Changes when the hardware or the kernel does.
        arch: Instruction set architecture.
        cpu_model: The CPU's name for people.
        cores: CPU cores that the program may use.
        mem_total_bytes: Memory.
        virtualised: Whether a hypervisor is below.
        governor: The frequency governor.
        runtime_version: Of onnxruntime there.
        raw: All facts, as they go into benchmark.json.
        wall_s: What asking took.
    """

    fingerprint: str
    arch: str
    cpu_model: str
    cores: int | None
    mem_total_bytes: int | None
    virtualised: bool | None
    governor: str | None
    runtime_version: str | None
    raw: Mapping[str, Any]
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """One checked answer of the device program.

    Attributes:
        result: The ``result`` object of its JSON document.
        wall_s: From start to end of the process, transport included.
    """

    result: Mapping[str, Any]
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """What came back from a device, unchecked: how the device program ended, what it wrote, and the time taken."""

    returncode: int
    stdout: bytes
    stderr: bytes
    wall_s: float


class Device(ABC):
    """A place where the device program runs."""

    kind: str

    @final
    def facts(self) -> DeviceFacts:
        """What this device is.

        Raises:
            DeviceError: It does not answer, or answers garbage.
        """
        answer = self.run(None, ["facts"], timeout_s=_FACTS_TIMEOUT_S)
        raw = answer.result
        return DeviceFacts(
            fingerprint=str(raw.get("fingerprint", "")),
            arch=str(raw.get("arch", "unknown")),
            cpu_model=str(raw.get("cpu_model", "unknown")),
            cores=raw.get("usable_cores"),
            mem_total_bytes=raw.get("mem_total_bytes"),
            virtualised=raw.get("virtualised"),
            governor=raw.get("governor"),
            runtime_version=raw.get("onnxruntime"),
            raw=raw,
            wall_s=answer.wall_s,
        )

    @final
    def run(self, folder: Path | None, command: Sequence[str], *, timeout_s: float) -> DeviceResult:
        """Runs the device program once, in a fresh process.

        Args:
            folder: The working folder that the command's relative paths start from; None where it needs none.
            command: The command and its arguments, for example ``["measure", "engines/0", "--samples", "x.npz"]``.
            timeout_s: The process is ended after this time.

        Raises:
            InputError, RefusedError, EnvironmentFailure: What the device program reported.
            DeviceError: The same, or the device is lost, too slow, or its answer is not valid.
        """
        nonce = secrets.token_hex(8)
        answer = self._run(folder, [*command, "--nonce", nonce], timeout_s)
        return DeviceResult(result=check_answer(answer, command[0], nonce), wall_s=answer.wall_s)

    @abstractmethod
    def _run(self, folder: Path | None, command: Sequence[str], timeout_s: float) -> RawAnswer: ...


def check_answer(answer: RawAnswer, command: str, nonce: str) -> Mapping[str, Any]:
    """The result inside an answer: one JSON document, of bounded size and depth, finite, for this very question.

    Raises:
        DeviceError: It is not valid.
        EdgepressError: The error that the device program reported.
    """
    if len(answer.stdout) > MAX_ANSWER_BYTES:
        raise _invalid(f"it is over {MAX_ANSWER_BYTES} bytes")
    try:
        document: object = json.loads(answer.stdout.decode("utf-8"), parse_constant=_no_constant)
        _check_value(document, 0)
    except (ValueError, RecursionError) as error:
        last = answer.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing on stderr"]
        reason = f"exit code {answer.returncode}, {str(error)[:200]}; {printable(last[0])}"
        raise _invalid(reason) from error
    if not isinstance(document, dict) or document.get("nonce") != nonce:
        raise _invalid("it is the answer to another question (the nonce differs)")
    reported = document.get("error")
    if isinstance(reported, dict):
        what, why, fix = (printable(str(reported.get(key, "not said"))) for key in ("what", "why", "fix"))
        if answer.returncode == _OWN_BUG:
            trace = answer.stderr.decode("utf-8", "replace")[-4000:]
            raise RuntimeError(f"a bug in the device program: {why}\n{trace}")
        raise project_error(answer.returncode, what, why, fix)
    result = document.get("result")
    if answer.returncode != 0 or not isinstance(result, dict) or document.get("command") != command:
        raise _invalid(f"exit code {answer.returncode} and no result of {command!r}")
    return result


def printable(text: str) -> str:
    """Text from a device without control characters, in one line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text)[:_MAX_TEXT]


def _check_value(value: object, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")
    if isinstance(value, dict):
        for item in value.values():
            _check_value(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _invalid(why: str) -> DeviceError:
    return DeviceError("the device gave no valid answer", why, _FIX)
