"""Signatures: made and checked as others make and check them; every kind of forgery is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pipeline.bundling.archive import pack_archive
from pipeline.bundling.manifest import write_manifest
from pipeline.bundling.signature import key_id, signature_path
from pipeline.bundling.verify import sign_bundle, verify_bundle
from targets.errors import InputError, RefusedError


def _pem(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """Private and public key files."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def ours(tmp_path: Path) -> tuple[Path, Path]:
    return _pem(tmp_path, "ours")


@pytest.fixture
def signed(bundle: Path, ours: tuple[Path, Path]) -> Path:
    sign_bundle(bundle, ours[0], signature_path(bundle))
    return bundle


def _verify(bundle: Path, key: Path, **options: Path) -> str:
    return verify_bundle(bundle, run_engine=False, key=key, **options).signed_by


def test_one_signature_holds_for_folder_and_archive(signed: Path, ours: tuple[Path, Path]) -> None:
    """Promise S14: what is signed is verified, in both forms, with the key's id; and no byte of the bundle changed."""
    assert sorted(path.name for path in signed.iterdir()) == [
        "README.txt", "engine.json", "engine.onnx", "golden.npz", "inspect.json", "manifest.json", "ondevice.pyz",
        "requirements.txt",
    ]  # fmt: skip
    archive = signed.with_name("bundle.tar.gz")
    pack_archive(signed, archive, top="tiny")
    ids = {_verify(signed, ours[1]), _verify(archive, ours[1])}
    assert len(ids) == 1
    assert len(ids.pop()) == 64
    assert verify_bundle(signed, run_engine=False).signed_by == ""


def test_the_same_key_signs_the_same_bytes_once(signed: Path, ours: tuple[Path, Path], tmp_path: Path) -> None:
    """Promise S14: Ed25519 has no randomness: signing again changes nothing; another key adds a line."""
    file = signature_path(signed)
    before = file.read_bytes()
    sign_bundle(signed, ours[0], file)
    assert file.read_bytes() == before
    theirs = _pem(tmp_path, "theirs")
    sign_bundle(signed, theirs[0], file)
    assert len(file.read_text().splitlines()) == 2
    assert _verify(signed, ours[1]) != _verify(signed, theirs[1])


def test_others_accept_our_envelope(signed: Path, ours: tuple[Path, Path]) -> None:
    """Promise S15: the DSSE envelope verifies in securesystemslib, which shares no code with ours."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    document = json.loads(signature_path(signed).read_text())
    public = load_pem_public_key(ours[1].read_bytes())
    own = key_id(public)  # type: ignore[arg-type]
    envelope = Envelope.from_dict({**document, "signatures": [{"keyid": own, "sig": document["signatures"][0]["sig"]}]})
    key = SSlibKey.from_crypto(public, keyid=own)  # type: ignore[arg-type]
    assert envelope.verify([key], 1)


def test_keys_of_openssl_work(bundle: Path, tmp_path: Path) -> None:
    """The commands that the help names make keys that sign and verify."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    key.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    sign_bundle(bundle, key, tmp_path / "s")
    assert _verify(bundle, public, signatures=tmp_path / "s")


def _another_bundle(signed: Path, _file: Path) -> None:
    (signed / "README.txt").write_text("another one")
    document = json.loads((signed / "manifest.json").read_text())
    fields = {name: value for name, value in document.items() if name not in {"files", "manifest_sha256", "schema"}}
    write_manifest(signed, fields)


def _swapped_payload(_signed: Path, file: Path) -> None:
    document = json.loads(file.read_text())
    statement = json.loads(base64.b64decode(document["payload"]))
    statement["predicate"] = {"forged": True}
    document["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    file.write_text(json.dumps(document) + "\n")


def _flipped(_signed: Path, file: Path) -> None:
    document = json.loads(file.read_text())
    raw = bytearray(base64.b64decode(document["signatures"][0]["sig"]))
    raw[7] ^= 1
    document["signatures"][0]["sig"] = base64.b64encode(raw).decode()
    file.write_text(json.dumps(document) + "\n")


FORGERIES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another bundle with a fresh manifest": (_another_bundle, "the signature is of the manifest"),
    "another payload": (_swapped_payload, "is by the key"),
    "a flipped bit": (_flipped, "is by the key"),
    "no signature": (lambda _b, file: file.unlink(), "there is no bundle.intoto.jsonl"),
    "an empty file": (lambda _b, file: file.write_text(""), "it holds no signature"),
    "no JSON": (lambda _b, file: file.write_text("[1]\n"), "no DSSE envelope"),
    "deep JSON": (lambda _b, file: file.write_text("[" * 100_000), "no DSSE envelope"),
    "a billion lines": (lambda _b, file: file.write_text("{}\n" * 1000), "over 64 signatures"),
    "a missing field": (lambda _b, file: file.write_text('{"payloadType": "x"}\n'), "no DSSE envelope"),
    "a signature that is no base64": (
        lambda _b, file: file.write_text(json.dumps({"payloadType": "x", "payload": "", "signatures": [{"sig": "!"}]})),
        "no DSSE envelope",
    ),
}


@pytest.mark.parametrize(("forge", "told"), FORGERIES.values(), ids=FORGERIES.keys())
def test_forgeries_are_refused(
    forge: Callable[[Path, Path], object], told: str, signed: Path, ours: tuple[Path, Path]
) -> None:
    """Promise S14: whatever is changed in bundle or signature, verifying with the key refuses it and says why."""
    forge(signed, signature_path(signed))
    with pytest.raises(RefusedError) as caught:
        _verify(signed, ours[1])
    assert told in str(caught.value)


def test_a_wrong_key_is_refused_with_both_ids(signed: Path, ours: tuple[Path, Path], tmp_path: Path) -> None:
    """Promise S14: a bundle signed by somebody else is refused, and both keys are named."""
    theirs = _pem(tmp_path, "theirs")
    own = _verify(signed, ours[1])
    with pytest.raises(RefusedError, match=own[:16]):
        _verify(signed, theirs[1])


def test_a_changed_bundle_is_not_signed(bundle: Path, ours: tuple[Path, Path], tmp_path: Path) -> None:
    """Promise S14: only what its own manifest describes gets a signature."""
    (bundle / "README.txt").write_text("changed")
    with pytest.raises(RefusedError, match=r"README\.txt was changed"):
        sign_bundle(bundle, ours[0], tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_keys_that_will_not_do(bundle: Path, ours: tuple[Path, Path], tmp_path: Path) -> None:
    """A key that others may read, of another kind, missing, or no key at all is told, with how to make one."""
    private, public = ours
    private.chmod(0o640)
    with pytest.raises(RefusedError, match=f"chmod 600 {private}"):
        sign_bundle(bundle, private, tmp_path / "s")
    other = tmp_path / "ec.pem"
    other.touch(mode=0o600)
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    other.write_bytes(pem)
    for path in (other, public, tmp_path / "gone.pem"):
        if path.exists():
            path.chmod(0o600)
        with pytest.raises(InputError, match="openssl genpkey"):
            sign_bundle(bundle, path, tmp_path / "s")
    for path in (other, tmp_path / "gone.pem"):
        with pytest.raises(InputError, match="cannot use the key"):
            _verify(bundle, path)


def test_an_encrypted_key_needs_its_password(bundle: Path, tmp_path: Path) -> None:
    """Without or with a wrong password the key is refused; with the right one it signs."""
    private, public = _pem(tmp_path, "locked", b"open sesame")
    for password in (None, b"wrong"):
        with pytest.raises(InputError, match="cannot use the key"):
            sign_bundle(bundle, private, tmp_path / "s", password=password)
    sign_bundle(bundle, private, tmp_path / "s", password=b"open sesame")
    assert _verify(bundle, public, signatures=tmp_path / "s")
