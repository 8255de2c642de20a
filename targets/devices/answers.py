"""What a device sends back is data: one JSON document or one .npz, checked before anything uses it."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from targets.devices.npz import arrays_fault
from targets.errors import DeviceError
from targets.ondevice_errors import project_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_T = TypeVar("_T")

MAX_ANSWER_BYTES: Final = 16 << 20
MAX_STDERR_BYTES: Final = 1 << 16
_MAX_DEPTH: Final = 12
_MAX_TEXT: Final = 4096
_MAX_INTEGER: Final = 1 << 64
_MAX_TRACE_BYTES: Final = 4000
_OWN_BUG: Final = 70
_REPORTED: Final = frozenset({2, 3, 4, 5, 6})
_FIX: Final = "check that the device is up and nobody else uses it, then run the same command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a device says it is; None where it does not tell, or tells no value of that kind.

    Attributes:
        fingerprint: Changes when the hardware or the kernel does.
        arch: Instruction set architecture.
        cpu_model: The CPU's name for people.
        cores: CPU cores that the program may use.
        mem_total_bytes: Memory.
        virtualised: Whether a hypervisor is below.
        emulated: Whether the CPU is emulated by software, so that times mean nothing.
        governor: The frequency governor.
        runtime_version: Of onnxruntime there.
        boot_id: Changes when the device starts anew.
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
    boot_id: str | None = None
    emulated: bool | None = None


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
    """What came back from a device, unchecked: how the device program ended, what it wrote, and the time taken.

    ``returncode`` is minus the signal number when a signal ended the program.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    wall_s: float


def facts_of(answer: DeviceResult) -> DeviceFacts:
    """The answer to ``facts``, with what others decide by in fields of its own."""
    raw = answer.result
    return DeviceFacts(
        fingerprint=_fact(raw, "fingerprint", str) or "",
        arch=_fact(raw, "arch", str) or "unknown",
        cpu_model=_fact(raw, "cpu_model", str) or "unknown",
        cores=_fact(raw, "usable_cores", int),
        mem_total_bytes=_fact(raw, "mem_total_bytes", int),
        virtualised=_fact(raw, "virtualised", bool),
        governor=_fact(raw, "governor", str),
        runtime_version=_fact(raw, "onnxruntime", str),
        raw=raw,
        wall_s=answer.wall_s,
        boot_id=_fact(raw, "boot_id", str),
        emulated=_fact(raw, "emulated", bool),
    )


def _fact(raw: Mapping[str, Any], name: str, kind: type[_T]) -> _T | None:
    value = raw.get(name)
    return value if type(value) is kind else None  # not isinstance: True is no number of cores


def check_answer(answer: RawAnswer, command: str, nonce: str, *, device: str = "local") -> Mapping[str, Any]:
    """The result inside an answer: one JSON document, of bounded size and depth, finite, for this very question.

    Its text comes back printable.

    Raises:
        DeviceError: It is not valid, or the program was ended because its time was up.
        EdgepressError: The error that the device program reported.
    """
    if answer.returncode == -signal.SIGALRM:
        raise too_slow(device, command)
    if len(answer.stdout) > MAX_ANSWER_BYTES:
        raise _invalid(device, f"it is over {MAX_ANSWER_BYTES} bytes")
    try:
        document = _checked(json.loads(answer.stdout.decode("utf-8"), parse_constant=_no_constant), 0)
    except (ValueError, RecursionError) as error:
        last = answer.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing on stderr"]
        reason = f"exit code {answer.returncode}, {printable(str(error)[:200])}; {printable(last[0])}"
        raise _invalid(device, reason) from error
    if not isinstance(document, dict) or document.get("nonce") != nonce:
        raise _invalid(device, "it is the answer to another question (the nonce differs)")
    reported = document.get("error")
    if isinstance(reported, dict):
        what, why, fix = (str(reported.get(key, "not said")) for key in ("what", "why", "fix"))
        if answer.returncode == _OWN_BUG:
            trace = answer.stderr[-_MAX_TRACE_BYTES:].decode("utf-8", "replace").splitlines()
            raise RuntimeError("\n".join([f"a bug in the device program: {why}", *map(printable, trace)]))
        if answer.returncode not in _REPORTED:
            raise _invalid(device, f"exit code {answer.returncode}, {what}: {why}")
        raise project_error(answer.returncode, _on(device, what), why, fix)
    result = document.get("result")
    if answer.returncode != 0 or not isinstance(result, dict) or document.get("command") != command:
        raise _invalid(device, f"exit code {answer.returncode} and no result of {command!r}")
    return result


def check_arrays(path: Path, *, device: str) -> None:
    """Refuses a fetched file that is anything else than an .npz of plain numbers of bounded size.

    Raises:
        DeviceError: It is not.
    """
    fault = arrays_fault(path)
    if fault:
        raise DeviceError(f"device {device!r} sent no valid arrays", printable(fault)[:300], _FIX)


def printable(text: str) -> str:
    """Text from a device without control characters, in one line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text)[:_MAX_TEXT]


def too_slow(device: str, command: str) -> DeviceError:
    """The error for a device program that did not end in time."""
    return DeviceError(
        f"{command!r} was stopped on device {device!r}",
        "it took longer than its limit of time",
        "give it more time, give it less to do, or use a faster device",
    )


def _on(device: str, what: str) -> str:
    return what if device == "local" else f"{what} (on device {device!r})"


def _checked(value: Any, depth: int) -> Any:  # noqa: ANN401 - any JSON value
    """The same value, its text without anything that a terminal or a page reads more into.

    Raises:
        ValueError: It is nested too deep, or holds a number that no measurement gives.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deep")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ValueError("it holds a number of more than 64 bits")
    if isinstance(value, dict):
        return {printable(key): _checked(item, depth + 1) for key, item in value.items()}
    return [_checked(item, depth + 1) for item in value] if isinstance(value, list) else value


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _invalid(device: str, why: str) -> DeviceError:
    return DeviceError(f"device {device!r} gave no valid answer", why, _FIX)
