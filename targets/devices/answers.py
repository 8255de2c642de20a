"""What a device sends back is data: one JSON document or one .npz, checked before anything uses it."""

from __future__ import annotations

import json
import math
import signal
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from targets.errors import DeviceError
from targets.ondevice_errors import project_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_ANSWER_BYTES: Final = 16 << 20
MAX_ARRAYS_BYTES: Final = 2 << 30
MAX_STDERR_BYTES: Final = 1 << 16
_MAX_DEPTH: Final = 12
_MAX_TEXT: Final = 4096
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
        boot_id=raw.get("boot_id"),
        emulated=raw.get("emulated"),
    )


def check_answer(answer: RawAnswer, command: str, nonce: str, *, device: str = "local") -> Mapping[str, Any]:
    """The result inside an answer: one JSON document, of bounded size and depth, finite, for this very question.

    Raises:
        DeviceError: It is not valid, or the program was ended because its time was up.
        EdgepressError: The error that the device program reported.
    """
    if answer.returncode == -signal.SIGALRM:
        raise too_slow(device, command)
    if len(answer.stdout) > MAX_ANSWER_BYTES:
        raise _invalid(device, f"it is over {MAX_ANSWER_BYTES} bytes")
    try:
        document: object = json.loads(answer.stdout.decode("utf-8"), parse_constant=_no_constant)
        _check_value(document, 0)
    except (ValueError, RecursionError) as error:
        last = answer.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing on stderr"]
        reason = f"exit code {answer.returncode}, {printable(str(error)[:200])}; {printable(last[0])}"
        raise _invalid(device, reason) from error
    if not isinstance(document, dict) or document.get("nonce") != nonce:
        raise _invalid(device, "it is the answer to another question (the nonce differs)")
    reported = document.get("error")
    if isinstance(reported, dict):
        what, why, fix = (printable(str(reported.get(key, "not said"))) for key in ("what", "why", "fix"))
        if answer.returncode == _OWN_BUG:
            trace = answer.stderr.decode("utf-8", "replace")[-4000:]
            raise RuntimeError(f"a bug in the device program: {why}\n{trace}")
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
    try:
        with zipfile.ZipFile(path) as archive:
            fault = _arrays_fault(archive)
    except (ValueError, EOFError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        fault = str(error) or type(error).__name__
    if fault:
        raise DeviceError(f"device {device!r} sent no valid arrays", printable(fault)[:300], _FIX)


def _arrays_fault(archive: zipfile.ZipFile) -> str | None:
    import numpy as np  # heavy: only those who fetch pay for it

    members = archive.infolist()
    if not members or sum(member.file_size for member in members) > MAX_ARRAYS_BYTES:
        return f"it holds nothing, or over {MAX_ARRAYS_BYTES} bytes"
    for member in members:
        if not member.filename.endswith(".npy"):
            return f"it holds {member.filename[:80]!r}, which is no array"
        with archive.open(member) as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                return "it holds an array in another format than numpy writes for plain numbers"
            shape, _, kind = np.lib.format.read_array_header_1_0(stream)
        if kind.hasobject or math.prod(shape) * kind.itemsize > member.file_size:
            return "it holds an array that is not whole, or holds more than numbers"
    return None


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


def _invalid(device: str, why: str) -> DeviceError:
    return DeviceError(f"device {device!r} gave no valid answer", why, _FIX)
