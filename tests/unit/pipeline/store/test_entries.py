"""pipeline.store.entries: a record is believed only when every bit is as it was written."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import FileRef, canonical_json
from pipeline.store.entries import DamageError, check_name, make_entry, read_record, write_record

_KEY = "ab" * 32
_FILES = [
    FileRef(name="model.onnx", sha256="12" * 32, size_bytes=7),
    FileRef(name="a/io.json", sha256="34" * 32, size_bytes=0),
]
_ENTRY = make_entry(_KEY, "export", _FILES, {"accuracy_ratio": 0.5, "shape": (1, 3)}, measured=False)


def test_record_reads_back() -> None:
    """A record gives back the entry it was written from."""
    assert read_record(write_record(_ENTRY), _KEY) == _ENTRY


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    """No record with a flipped bit is believed."""
    record = bytearray(write_record(_ENTRY))
    index = data.draw(st.integers(0, len(record) - 1))
    record[index] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert read_record(bytes(record), _KEY) is None  # the flip hit the version: not ours to judge
        assert json.loads(bytes(record))["schema"] != 1
    except DamageError:
        pass


@settings(deadline=None, max_examples=60)
@given(length=st.integers(0, len(write_record(_ENTRY)) - 1))
def test_any_truncation_is_noticed(length: int) -> None:
    """No record that lost its tail is believed."""
    with pytest.raises(DamageError):
        read_record(write_record(_ENTRY)[:length], _KEY)


def test_record_of_another_key_is_noticed() -> None:
    """A sound record under the wrong name is not believed."""
    with pytest.raises(DamageError, match="checksum"):
        read_record(write_record(_ENTRY), "cd" * 32)


def _forge(**changes: object) -> bytes:
    body = {key: value for key, value in json.loads(write_record(_ENTRY)).items() if key != "checksum"} | changes
    return canonical_json({**body, "checksum": hashlib.sha256(canonical_json(body)).hexdigest()})


@pytest.mark.parametrize(
    "changes",
    [
        {"files": [["../evil", "12" * 32, 1]]},
        {"files": [["/etc/passwd", "12" * 32, 1]]},
        {"files": [["x", "../../x", 1]]},
        {"files": [["x", "12" * 32]]},
        {"files": 7},
        {"digest": "00" * 32},
        {"key": "cd" * 32},
        {"schema": "1"},
        {"schema": True},
    ],
)
def test_forged_record_is_noticed(changes: dict[str, object]) -> None:
    """A record with a right checksum and wrong content is not believed."""
    with pytest.raises(DamageError):
        read_record(_forge(**changes), _KEY)


def test_record_of_another_version_is_not_ours() -> None:
    """A record of another schema version is no damage and no entry."""
    assert read_record(_forge(schema=2), _KEY) is None
    assert read_record(b'{"schema": 99, "whatever": null}', _KEY) is None


def test_digest_holds_names_hashes_and_results_only() -> None:
    """The digest depends on names, hashes and meta, and neither on key, stage nor the order of files."""
    same = make_entry("cd" * 32, "other", _FILES[::-1], {"shape": [1, 3], "accuracy_ratio": 0.5}, measured=True)
    assert same.digest == _ENTRY.digest
    expected = {"files": [["a/io.json", "34" * 32], ["model.onnx", "12" * 32]], "meta": _ENTRY.meta}
    assert _ENTRY.digest == hashlib.sha256(canonical_json(expected)).hexdigest()
    renamed = [FileRef(name="b", sha256=ref.sha256, size_bytes=1) for ref in _FILES[:1]]
    assert make_entry(_KEY, "export", renamed, _ENTRY.meta, measured=False).digest != _ENTRY.digest


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "a/", "a//b", "a/../b", "../a", "./a", "a\\b", "a\0b"])
def test_names_stay_inside(name: str) -> None:
    """A name that could leave the artifact is refused."""
    with pytest.raises(ValueError, match="not the name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "a/b.c", "-x", "...", "ü \n'", "a" * 255])
def test_odd_names_are_fine(name: str) -> None:
    """A name that is merely odd is taken as it is."""
    assert check_name(name) == name


def test_notes_are_kept_beside_the_digest() -> None:
    """Notes come back with the record, are guarded by its checksum, and change no digest."""
    noted = make_entry(_KEY, "export", _FILES, _ENTRY.meta, measured=False, notes={"wall_s": 1.25})
    assert noted.digest == _ENTRY.digest
    assert read_record(write_record(noted), _KEY) == noted
    with pytest.raises(DamageError):
        read_record(write_record(noted).replace(b"1.25", b"1.26"), _KEY)


def test_two_files_of_one_name_are_refused() -> None:
    """A result cannot hold two files of one name."""
    with pytest.raises(ValueError, match="same name"):
        make_entry(_KEY, "export", [_FILES[0], _FILES[0]], {}, measured=False)
