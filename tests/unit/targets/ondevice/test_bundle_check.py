"""Which bundles the device program refuses before it opens anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.ondevice.bundle import check_bundle
from targets.ondevice.failure import BAD_INPUT, REFUSED, Failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _refused(bundle: Path) -> Failure:
    with pytest.raises(Failure) as caught:
        check_bundle(bundle)
    assert caught.value.exit_code == REFUSED
    return caught.value


def _extra(bundle: Path) -> None:
    (bundle / "extra.bin").write_bytes(b"x")


def _hidden(bundle: Path) -> None:
    (bundle / "sub").mkdir()
    (bundle / "sub" / ".hidden").write_bytes(b"")


def _missing(bundle: Path) -> None:
    (bundle / "inspect.json").unlink()


def _link(bundle: Path) -> None:
    (bundle / "golden.npz").rename(bundle.parent / "golden.npz")
    (bundle / "golden.npz").symlink_to(bundle.parent / "golden.npz")


def _folder_link(bundle: Path) -> None:
    (bundle / "sub").symlink_to(bundle.parent)


def _linked_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "manifest.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "manifest.json")


def _truncated(bundle: Path) -> None:
    (bundle / "engine.onnx").write_bytes((bundle / "engine.onnx").read_bytes()[:-1])


def test_a_good_bundle_passes(bundle: Path) -> None:
    """A bundle as it was built is accepted, and its manifest returned."""
    assert set(check_bundle(bundle)["files"]) == {p.name for p in bundle.iterdir()} - {"manifest.json"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_extra, "extra.bin"),
        (_hidden, "sub/.hidden"),
        (_missing, "inspect.json"),
        (_link, "golden.npz"),
        (_folder_link, "sub"),
        (_linked_manifest, "manifest.json"),
        (_truncated, "engine.onnx"),
    ],
)
def test_a_changed_bundle_is_refused(bundle: Path, change: Callable[[Path], None], word: str) -> None:
    """Extra, missing, linked and shortened files are refused, each by name."""
    change(bundle)
    assert word in _refused(bundle).what


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "a//b", "", ".", "a\\b", "manifest.json"])
def test_names_that_leave_the_bundle_are_refused(bundle: Path, name: str) -> None:
    """A manifest whose names point anywhere else is refused before any file is opened."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    _refused(bundle)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 2, "files": {"a": {}}}', '{"schema": 1, "files": {"a": 3}}', "\x00"]
)
def test_no_manifest_is_bad_input(bundle: Path, text: str) -> None:
    """What is no manifest of this schema is bad input, never a pass."""
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(Failure) as caught:
        check_bundle(bundle)
    assert caught.value.exit_code == BAD_INPUT


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(pristine: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Property: no single bit of any listed file can change unnoticed."""
    bundle = tmp_path / "b"
    bundle.mkdir(exist_ok=True)
    for path in pristine.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    names = sorted(path.name for path in bundle.iterdir() if path.name != "manifest.json")
    path = bundle / data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) * 8 - 1))
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    assert path.name in _refused(bundle).what
