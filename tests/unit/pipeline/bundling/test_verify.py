"""Verification: a good bundle passes, and every kind of damage is refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.bundling.archive import pack_archive
from pipeline.bundling.manifest import write_manifest
from pipeline.bundling.verify import verify_bundle
from targets.errors import DeviceError, InputError, RefusedError

NAMES = [
    "README.txt", "engine.json", "engine.onnx", "golden.npz", "inspect.json", "manifest.json", "ondevice.pyz",
    "requirements.txt",
]  # fmt: skip


def test_a_good_bundle_passes_as_folder_and_as_archive(bundle: Path, tmp_path: Path) -> None:
    """All bytes are re-hashed, the golden vectors run, and both forms give the same report."""
    report = verify_bundle(bundle)
    assert (report.files, report.engine_ok, report.samples, report.argmax_agreement_ratio) == (8, True, 5, 1.0)
    assert report.bytes == sum(p.stat().st_size for p in bundle.iterdir())
    assert report.worst_error is not None
    assert report.worst_error < 1e-5
    pack_archive(bundle, tmp_path / "b.tar.gz", top="tiny")
    assert verify_bundle(tmp_path / "b.tar.gz") == report
    quick = verify_bundle(bundle, run_engine=False)
    assert (quick.engine_ok, quick.worst_error, quick.files) == (None, None, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_refused_by_name(name: str, bundle: Path) -> None:
    """One bit anywhere in any file, the manifest too, is found, and the message names the file."""
    for position in (0, -1):
        data = bytearray((bundle / name).read_bytes())
        data[position] ^= 1
        (bundle / name).write_bytes(data)
        with pytest.raises(RefusedError, match=name):
            verify_bundle(bundle)
        data[position] ^= 1
        (bundle / name).write_bytes(data)
    assert verify_bundle(bundle, run_engine=False).files == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_refused_by_name(name: str, bundle: Path) -> None:
    """A file that lost its last byte is found by its size."""
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
    with pytest.raises(RefusedError, match=name):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name: str, bundle: Path) -> None:
    """A file that is gone is an error that names it; without a manifest there is no bundle."""
    (bundle / name).unlink()
    with pytest.raises(InputError if name == "manifest.json" else RefusedError, match=name):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", NAMES)
def test_a_link_is_refused_even_to_the_right_bytes(name: str, bundle: Path, tmp_path: Path) -> None:
    """A symbolic link in place of a file is refused, although its content is correct."""
    (bundle / name).rename(tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    with pytest.raises(RefusedError, match=f"{name}.*a link"):
        verify_bundle(bundle)


def test_what_does_not_belong_is_refused(bundle: Path) -> None:
    """An extra file, an extra folder and a pipe are refused by name, hidden ones too."""
    for make in (Path.touch, Path.mkdir, os.mkfifo):
        make(bundle / ".extra")
        for run_engine in (True, False):  # the device program would refuse it too: here it must not get that far
            with pytest.raises(RefusedError, match=r"\.extra"):
                verify_bundle(bundle, run_engine=run_engine)
        (bundle / ".extra").rmdir() if (bundle / ".extra").is_dir() else (bundle / ".extra").unlink()
    assert verify_bundle(bundle, run_engine=False).files == len(NAMES)


def test_wrong_answers_fail_as_a_device_error(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """Right hashes do not help an engine whose answers are not the golden ones."""
    wrong = make_bundle(tmp_path / "wrong", np.ones((5, 3), np.float32))
    with pytest.raises(DeviceError, match="'y'"):
        verify_bundle(wrong)
    assert verify_bundle(wrong, run_engine=False).engine_ok is None


def test_the_program_inside_the_bundle_never_runs(bundle: Path, tmp_path: Path) -> None:
    """A correctly listed but hostile ondevice.pyz is hashed, not run: ours checks the engine."""
    canary = tmp_path / "canary"
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "ondevice.pyz").write_text(f"open({str(canary)!r}, 'w').write('ran')\n")
    fields = {k: v for k, v in manifest.items() if k not in {"schema", "files", "manifest_sha256"}}
    write_manifest(bundle, fields)
    assert verify_bundle(bundle).engine_ok is True
    assert not canary.exists()


def test_an_engine_that_cannot_be_opened_is_a_clear_error(bundle: Path) -> None:
    """An engine file that the runtime refuses ends in three lines, not in a traceback."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    spec = json.loads((bundle / "engine.json").read_text())
    (bundle / "engine.onnx").write_bytes(b"not a model")
    from targets.files import sha256_file

    digest = sha256_file(bundle / "engine.onnx")
    (bundle / "engine.json").write_text(json.dumps({**spec, "sha256": digest}))
    fields = {k: v for k, v in manifest.items() if k not in {"schema", "files", "manifest_sha256"}}
    write_manifest(bundle, {**fields, "engine_sha256": digest})
    with pytest.raises(DeviceError) as caught:
        verify_bundle(bundle)
    assert str(caught.value).count("\n") == 2


def test_a_program_that_dies_is_reported(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the device program ends without an answer, the message has its last line and exit status."""
    dying = b"import sys\nsys.stderr.write('boom at the end\\n')\nsys.exit(9)\n"
    monkeypatch.setattr("targets.ondevice_pack.pack", lambda: dying)
    with pytest.raises(DeviceError, match="exit status 9: 'boom at the end'"):
        verify_bundle(bundle)
    forged = b'print(\'{"nonce": "", "result": {"engine_sha256": "", "samples": 5, "outputs": {}}}\')\n'
    monkeypatch.setattr("targets.ondevice_pack.pack", lambda: forged)
    with pytest.raises(DeviceError, match="golden check"):
        verify_bundle(bundle)


def test_archives_that_hold_no_bundle(bundle: Path, tmp_path: Path) -> None:
    """An archive with two things at its top, one without a manifest, and a path to nothing are told apart."""
    with pytest.raises(InputError, match="cannot read"):
        verify_bundle(tmp_path / "none.tar.gz")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a").write_text("1")
    pack_archive(tmp_path / "plain", tmp_path / "plain.tar.gz", top="t")
    with pytest.raises(InputError, match=r"manifest\.json"):
        verify_bundle(tmp_path / "plain.tar.gz")
    import tarfile

    with tarfile.open(tmp_path / "two.tar.gz", "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("one", "two"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(RefusedError, match="is no bundle"):
        verify_bundle(tmp_path / "two.tar.gz")


def test_bytes_left_in_the_bundle_are_none(bundle: Path) -> None:
    """Verifying leaves the bundle as it was: no cache, no log, no compiled file."""
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in bundle.iterdir()}
    verify_bundle(bundle)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in bundle.iterdir()} == before
