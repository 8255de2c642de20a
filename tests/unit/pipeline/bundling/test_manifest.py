"""The manifest: read back as written, and refused in every other form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bundling.manifest import _sealed_bytes, read_manifest, requirements_text, write_manifest
from targets.errors import InputError, RefusedError
from targets.files import sha256_bytes

FIELDS: dict[str, object] = {
    "name": "net", "target": "host", "precision": "int8", "versions": {"numpy": "2.0"}, "accuracy": {"validation": 0.9},
    "golden": {"file": "golden.npz", "samples": 2, "rtol": 0.01, "atol": {"y": 0.5}},
    "engine_sha256": sha256_bytes(b"engine"),
}  # fmt: skip


def folder_of(tmp_path: Path) -> Path:
    (tmp_path / "engine.onnx").write_bytes(b"engine")
    (tmp_path / "golden.npz").write_bytes(b"golden")
    return tmp_path


def resealed(path: Path, changes: dict[str, Any]) -> None:
    """A manifest changed by somebody who knows how to seal it."""
    path.write_bytes(_sealed_bytes({**json.loads(path.read_text()), **changes}))


def test_it_says_what_was_written(tmp_path: Path) -> None:
    """Reading gives what writing gave: all files but itself with size and digest, and every field."""
    written = write_manifest(folder_of(tmp_path), FIELDS)
    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest == written
    assert {name: (e.sha256, e.size_bytes) for name, e in manifest.files.items()} == {
        "engine.onnx": (sha256_bytes(b"engine"), 6),
        "golden.npz": (sha256_bytes(b"golden"), 6),
    }
    assert manifest.total_bytes == 12
    assert manifest.golden.atol == {"y": 0.5}
    write_manifest(tmp_path, FIELDS)
    assert read_manifest(tmp_path / "manifest.json") == manifest  # writing again does not list the manifest itself


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_seen(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No single bit of the manifest can change without being refused."""
    tmp = tmp_path_factory.mktemp("flip")
    write_manifest(folder_of(tmp), FIELDS)
    path = tmp / "manifest.json"
    raw = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    with pytest.raises(RefusedError, match=r"manifest\.json"):
        read_manifest(path)


ENTRY = {"sha256": sha256_bytes(b"engine"), "bytes": 6}
CHANGES: dict[str, dict[str, Any]] = {
    "parent": {"files": {"../x": ENTRY, "golden.npz": ENTRY}},
    "absolute": {"files": {"/etc/passwd": ENTRY, "golden.npz": ENTRY}},
    "backslash": {"files": {"a\\b": ENTRY, "golden.npz": ENTRY}},
    "hidden": {"files": {".x": ENTRY, "golden.npz": ENTRY}},
    "control character": {"files": {"a\nb": ENTRY, "golden.npz": ENTRY}},
    "itself": {"files": {"manifest.json": ENTRY, "golden.npz": ENTRY}},
    "same but for case": {"files": {"A": ENTRY, "a": ENTRY, "golden.npz": ENTRY}},
    "no files": {"files": {}},
    "negative size": {"files": {"golden.npz": {**ENTRY, "bytes": -1}}},
    "size is a text": {"files": {"golden.npz": {**ENTRY, "bytes": "6"}}},
    "size is a float": {"files": {"golden.npz": {**ENTRY, "bytes": 6.0}}},
    "digest too short": {"files": {"golden.npz": {**ENTRY, "sha256": "ab"}}},
    "digest in capitals": {"files": {"golden.npz": {**ENTRY, "sha256": "AB" * 32}}},
    "no golden file": {"golden": {"file": "none.npz", "samples": 2, "rtol": 0.0, "atol": {"y": 0.5}}},
    "golden elsewhere": {"golden": {"file": "../golden.npz", "samples": 2, "rtol": 0.0, "atol": {"y": 0.5}}},
    "no samples": {"golden": {"file": "golden.npz", "samples": 0, "rtol": 0.0, "atol": {"y": 0.5}}},
    "no tolerance": {"golden": {"file": "golden.npz", "samples": 2, "rtol": 0.0, "atol": {}}},
    "engine of another bundle": {"engine_sha256": "0" * 64},
    "unknown key": {"colour": "red"},
    "older schema": {"schema": 0},
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_well_sealed_lie_is_refused(case: str, tmp_path: Path) -> None:
    """Names that leave the folder, impossible sizes and broken references are refused though the seal is right."""
    write_manifest(folder_of(tmp_path), FIELDS)
    resealed(tmp_path / "manifest.json", CHANGES[case])
    with pytest.raises(RefusedError) as caught:
        read_manifest(tmp_path / "manifest.json")
    assert str(caught.value).count("\n") == 2


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}'])
def test_what_is_no_manifest_is_refused(text: bytes, tmp_path: Path) -> None:
    """Garbage, deep nesting and constants that are not JSON end in a refusal, not in a crash."""
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(RefusedError):
        read_manifest(tmp_path / "manifest.json")


def test_a_newer_layout_says_so(tmp_path: Path) -> None:
    """A manifest of a newer edgepress is not called damaged."""
    write_manifest(folder_of(tmp_path), FIELDS)
    resealed(tmp_path / "manifest.json", {"schema": 2})
    with pytest.raises(InputError, match="newer edgepress"):
        read_manifest(tmp_path / "manifest.json")


def test_a_missing_or_huge_manifest(tmp_path: Path) -> None:
    """Nothing there is the user's fault; a gigantic one is refused without being read whole."""
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(tmp_path / "manifest.json")
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(RefusedError, match="over"):
        read_manifest(tmp_path / "manifest.json")


def test_writing_refuses_what_cannot_be_read_back(tmp_path: Path) -> None:
    """A link, a folder or a name that is not portable never gets into a manifest."""
    folder = folder_of(tmp_path)
    (folder / "link").symlink_to("engine.onnx")
    with pytest.raises(RefusedError, match=r"'link'.*a link"):
        write_manifest(folder, FIELDS)
    (folder / "link").unlink()
    (folder / "sub").mkdir()
    with pytest.raises(RefusedError, match=r"'sub'.*a folder"):
        write_manifest(folder, FIELDS)
    (folder / "sub").rmdir()
    (folder / "two words").write_text("1")
    with pytest.raises(InputError, match="two words"):
        write_manifest(folder, FIELDS)
    assert not (folder / "manifest.json").exists()


def test_requirements_name_the_runtime_exactly() -> None:
    """The device installs the very runtime version that was measured."""
    assert requirements_text(runtime="onnxruntime", version="1.32.0") == "numpy>=1.26\nonnxruntime==1.32.0\n"
