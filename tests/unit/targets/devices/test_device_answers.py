"""What a device sends back is data: only a valid answer to this very question is used."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from typing import TYPE_CHECKING, final

import numpy as np
import pytest

from targets.devices.base import MAX_ANSWER_BYTES, Device, DeviceResult, RawAnswer, Session
from targets.errors import DeviceError, EdgepressError, EnvironmentFailure, InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@final
class _ScriptedSession(Session):
    """Answers what the script makes of the nonce; sends back the file it was given as any file asked for."""

    def __init__(self, device: _Scripted) -> None:
        self.name = device.name
        self._device = device

    def _put(self, source: Path, name: str) -> None:
        self._device.put[name] = source.read_bytes()

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        answer = self._device.script(command[command.index("--nonce") + 1])
        return RawAnswer(returncode=self._device.code, stdout=answer, stderr=self._device.stderr, wall_s=0.1)

    def _fetch(self, name: str, target: Path) -> None:
        target.write_bytes(self._device.file)


@final
class _Scripted(Device):
    """A device of the least code that a device can have."""

    name = "scripted"
    kind = "scripted"

    def __init__(
        self, script: Callable[[str], bytes], code: int = 0, stderr: bytes = b"", *, file: bytes = b""
    ) -> None:
        self.script, self.code, self.stderr, self.file = script, code, stderr, file
        self.put: dict[str, bytes] = {}

    @contextlib.contextmanager
    def _open(self, wait_s: float | None) -> Iterator[Session]:
        yield _ScriptedSession(self)

    def run(self, fetch: Path | None = None) -> DeviceResult:
        with self.session() as session:
            return session.run(["facts"], timeout_s=1, fetch=fetch)


def _document(nonce: str, **fields: object) -> bytes:
    return json.dumps({"command": "facts", "nonce": nonce, "result": {"a": 1}, **fields}).encode()


def test_a_valid_answer_is_passed_on() -> None:
    """The result object of a valid answer is returned as it is."""
    assert _Scripted(_document).run().result == {"a": 1}


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
        lambda n: _document(n).replace(b'"a": 1', b'"a": 1' + b"0" * 30),
        lambda n: _document(n).replace(b'"a": 1', b'"a": 1' + b"0" * 100_000),
        lambda _: b"[1]",
        lambda n: _document(n, pad="x" * MAX_ANSWER_BYTES),
    ],
)
def test_garbage_is_an_error_of_the_device(script: Callable[[str], bytes]) -> None:
    """Empty, torn, doubled, stale, foreign, infinite, deep and huge answers: a device error, never a result."""
    with pytest.raises(DeviceError):
        _Scripted(script).run()


def test_a_result_with_a_failing_exit_code_is_no_result() -> None:
    """A process that died after it wrote its answer has not answered."""
    with pytest.raises(DeviceError):
        _Scripted(_document, code=-9).run()


@pytest.mark.parametrize(
    ("code", "kind"), [(3, InputError), (4, RefusedError), (5, EnvironmentFailure), (6, DeviceError)]
)
def test_reported_errors_keep_their_class(code: int, kind: type[EdgepressError]) -> None:
    """An error that the program reports arrives as the same class, without control characters of the device."""

    def script(nonce: str) -> bytes:
        error = {"what": "w\x1b[31m", "why": "y\r\n", "fix": "f"}
        return json.dumps({"command": "facts", "nonce": nonce, "error": error}).encode()

    with pytest.raises(kind) as caught:
        _Scripted(script, code=code).run()
    assert caught.value.fix == "f"
    assert "\x1b" not in str(caught.value)
    assert "\r" not in str(caught.value)


@pytest.mark.parametrize("code", [1, 9, 126, 137, -9])
def test_no_other_exit_code_carries_an_error(code: int) -> None:
    """An error document with an exit code that the program never gives is garbage of the device, no bug of ours."""

    def script(nonce: str) -> bytes:
        return json.dumps({"nonce": nonce, "error": {"what": "w", "why": "y", "fix": "f"}}).encode()

    with pytest.raises(DeviceError, match="no valid answer"):
        _Scripted(script, code=code).run()


def test_text_of_a_device_is_inert() -> None:
    """Escape sequences, line ends, halves of characters and marks that turn text around reach nobody, in any result."""

    def script(nonce: str) -> bytes:
        nasty = "\x1b]0;t\x07\x1b[2Ja\r\n\u202eb\u2066"
        return _document(nonce, result={"cpu_model": nasty, nasty: [{"deep": nasty}]}).replace(b"a\\r", b"\\ud800a\\r")

    device = _Scripted(script)
    for raw in (device.run().result, device.facts().raw):
        text = "".join([*map(str, raw), *map(str, raw.values())])
        assert text.isprintable()
        assert text.encode()
    assert device.facts().cpu_model.isprintable()


def test_facts_of_another_kind_are_not_told() -> None:
    """A number of cores that is no number, or a name that is a list, is a fact that the device does not tell."""

    def script(nonce: str) -> bytes:
        wrong = {"usable_cores": True, "mem_total_bytes": "9", "cpu_model": [1], "emulated": "no", "fingerprint": {}}
        return _document(nonce, result=wrong)

    facts = _Scripted(script).facts()
    assert (facts.cores, facts.mem_total_bytes, facts.emulated) == (None, None, None)
    assert (facts.cpu_model, facts.fingerprint) == ("unknown", "")


def test_a_bug_of_the_program_shows_its_traceback() -> None:
    """Exit code 70 is our own bug, and carries the traceback of the device."""

    def script(nonce: str) -> bytes:
        return json.dumps({"nonce": nonce, "error": {"what": "a", "why": "KeyError", "fix": "c"}}).encode()

    with pytest.raises(RuntimeError, match="line 7") as caught:
        _Scripted(script, code=70, stderr=b"\x1b[31mTraceback:\nFile x, line 7").run()
    assert "\x1b" not in str(caught.value)


def test_an_error_says_which_device() -> None:
    """What a device reports carries its name: several may be measured at the same time."""

    def script(nonce: str) -> bytes:
        return json.dumps({"nonce": nonce, "error": {"what": "no numpy", "why": "y", "fix": "f"}}).encode()

    with pytest.raises(DeviceError, match=r"no numpy \(on device 'scripted'\)"):
        _Scripted(script, code=6).run()


def test_a_program_that_its_alarm_ended_was_too_slow() -> None:
    """The alarm's signal is told as what it is: the time was up."""
    with pytest.raises(DeviceError, match="was stopped") as caught:
        _Scripted(lambda _: b"", code=-14).run()
    assert "limit of time" in caught.value.why


def test_facts_know_boot_and_emulation() -> None:
    """Facts that decide whether a measurement means anything are fields of their own, None where not told."""

    def script(nonce: str) -> bytes:
        return _document(nonce, result={"fingerprint": "f", "boot_id": "b", "emulated": True, "usable_cores": 4})

    facts = _Scripted(script).facts()
    assert (facts.boot_id, facts.emulated, facts.cores, facts.governor) == ("b", True, 4, None)


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _zip(name: str, data: bytes, *, method: int = zipfile.ZIP_STORED, times: int = 1) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for number in range(times):
            archive.writestr(name if times == 1 else f"{number}{name}", data)
    return buffer.getvalue()


def _array(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def _overlapping() -> bytes:
    """Two entries for the same bytes: more is in it than was sent."""
    data = bytearray(_zip(".npy", bytes(4000), times=2))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)
    return bytes(data)


def test_fetched_arrays_arrive_as_they_are(tmp_path: Path) -> None:
    """An .npz of plain arrays comes through, under the name asked for and no other."""
    _Scripted(_document, file=_npz(y=np.arange(6.0).reshape(2, 3))).run(fetch=tmp_path / "got.npz")
    with np.load(tmp_path / "got.npz") as got:
        np.testing.assert_array_equal(got["y"], np.arange(6.0).reshape(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["got.npz"]


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"not a zip",
        _npz(y=np.ones(4))[:-30],
        _npz(y=np.array([{}], dtype=object)),
        _zip("../../x.npy", b"no array"),
        _zip("readme.txt", b"hello"),
        _zip(
            "y.npy",
            b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999,), }" + b" " * 9,
        ),
        _zip("y.npy", b"\x93NUMPY\x02\x00"),
        _zip("y.npy", bytes(50_000_000), method=zipfile.ZIP_DEFLATED),
        _zip(".npy", b"", times=5000),
        _npz(y=np.array(["text"])),
        _npz(y=np.zeros(3, dtype=[("a", "<f8")])),
        _zip("y.npy", _array("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8))),
        _zip("y.npy", _array("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(9))),
        _zip("y.npy", _array("{" * 9000)),
        _zip("y.npy", _array("{[]: 1}")),
        _npz(y=np.ones(400))[:900] + b"\1" + _npz(y=np.ones(400))[901:],
        b"prefix" + _npz(y=np.ones(4)),
        _overlapping(),
    ],
)
def test_other_files_than_arrays_are_refused(file: bytes, tmp_path: Path) -> None:
    """Torn, pickled, packed, foreign, lying and damaged files leave nothing behind."""
    with pytest.raises(DeviceError, match="no valid arrays"):
        _Scripted(_document, file=file).run(fetch=tmp_path / "got.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_there_file_by_file(tmp_path: Path) -> None:
    """A folder is put as its files, under relative names; a linked folder inside is refused."""
    (tmp_path / "e" / "inner").mkdir(parents=True)
    (tmp_path / "e" / "inner" / "a.bin").write_bytes(b"a")
    (tmp_path / "e" / "b.bin").write_bytes(b"b")
    device = _Scripted(_document)
    with device.session() as session:
        session.put(tmp_path / "e", "engines/0")
        assert device.put == {"engines/0/b.bin": b"b", "engines/0/inner/a.bin": b"a"}
        (tmp_path / "e" / "link").symlink_to(tmp_path)
        with pytest.raises(InputError, match="link"):
            session.put(tmp_path / "e", "again")
