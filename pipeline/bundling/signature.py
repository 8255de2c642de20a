"""Signs a bundle and checks signatures: Ed25519 over a DSSE envelope that names the manifest, kept beside the bundle.

The manifest holds the hash of every other file, so its hash speaks for all; the signature lies outside, so that the
bundle's bytes do not depend on who signed it. Source: DSSE v1.0.2 ("PAE"), in-toto Statement v1.
"""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.bundling.manifest import MANIFEST_NAME
from pipeline.bundling.provenance import PROVENANCE_NAME, statement_of
from targets.errors import InputError, RefusedError
from targets.files import sha256_bytes, sha256_file, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
SUFFIX: Final = ".intoto.jsonl"
_MAX_BYTES: Final = 16 << 20
_MAX_KEY_BYTES: Final = 1 << 16
_MAX_SIGNATURES: Final = 64
_MAKE_KEY: Final = "openssl genpkey -algorithm ed25519 -out key.pem && chmod 600 key.pem"
_PUBLIC_KEY: Final = "openssl pkey -in key.pem -pubout -out key.pub.pem"


def signature_path(bundle: Path) -> Path:
    """Where the signatures of a bundle lie: one place for the folder and its archive."""
    return bundle.with_name(bundle.name.removesuffix(".tar.gz") + SUFFIX)


def sign_manifest(folder: Path, key: Path, out: Path, *, password: bytes | None = None) -> str:
    """Adds a signature of a verified bundle folder to ``out``; the same key signs once.

    Args:
        folder: The bundle; whoever calls has verified it.
        key: An Ed25519 private key in PEM (PKCS 8), readable by its owner alone.
        out: Envelopes, one a line; what is there of other keys stays.
        password: Of an encrypted key.

    Returns:
        The id of the key.

    Raises:
        InputError: The key cannot be read, or is of another kind.
        RefusedError: Others may read the key.
    """
    private = _private_key(key, password)
    own = key_id(private.public_key())
    payload = json.dumps(_statement(folder), sort_keys=True, separators=(",", ":")).encode()
    signature = private.sign(pre_authentication(PAYLOAD_TYPE, payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": own, "sig": base64.b64encode(signature).decode()}],
    }
    others = [line for line in _lines(out) if own not in _key_ids(line)] if out.exists() else []
    lines = [*others, json.dumps(envelope, sort_keys=True, separators=(",", ":"))]
    write_atomic(out, ("\n".join(lines) + "\n").encode())
    return own


def check_signature(folder: Path, signatures: Path, key: Path) -> str:
    """Does nothing when ``key`` signed exactly this bundle.

    Args:
        folder: The bundle; its files are checked against its manifest elsewhere.
        signatures: The envelopes beside it; untrusted.
        key: An Ed25519 public key in PEM.

    Returns:
        The id of the key.

    Raises:
        InputError: The key cannot be read, or is of another kind.
        RefusedError: There is no signature of that key, it does not hold, or it is of another bundle.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public_key(key)
    own = key_id(public)
    if not signatures.is_file():
        raise _refuse(f"there is no {signatures.name} beside it", "get the signature too, or have the bundle signed")
    seen = []
    for line in _lines(signatures):
        for payload_type, payload, signature in _signatures(line):
            try:
                public.verify(signature, pre_authentication(payload_type, payload))
            except InvalidSignature:
                seen += _key_ids(line)
                continue
            _check_statement(payload_type, payload, sha256_file(folder / MANIFEST_NAME))
            return own
    named = f"the signatures are of {', '.join(name[:16] for name in seen)}" if seen else "it holds no signature"
    raise _refuse(f"none of {signatures.name} is by the key {own[:16]} ({named})", "ask for the key that signed it")


def is_encrypted(key: Path) -> bool:
    """Whether a private key needs a password; False where there is no key."""
    try:
        return b"ENCRYPTED" in _key_bytes(key)
    except InputError:
        return False


def key_id(public: Ed25519PublicKey) -> str:
    """The sha256 of a public key's DER form, in hex."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256_bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's PAE of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _statement(folder: Path) -> dict[str, Any]:
    """The bundle's own provenance, said of its manifest."""
    predicate: dict[str, Any] = {}
    if (folder / PROVENANCE_NAME).is_file():
        try:
            predicate = dict(json.loads((folder / PROVENANCE_NAME).read_bytes())["predicate"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"cannot sign {folder}", f"its {PROVENANCE_NAME} is no statement ({type(error).__name__})",
                "take the bundle again from where it was built",
            ) from error  # fmt: skip
    return statement_of({MANIFEST_NAME: sha256_file(folder / MANIFEST_NAME)}, predicate)


def _check_statement(payload_type: str, payload: bytes, manifest_sha256: str) -> None:
    try:
        statement = json.loads(payload) if payload_type == PAYLOAD_TYPE else {}
        named = [item["digest"]["sha256"] for item in statement["subject"] if item["name"] == MANIFEST_NAME]
    except (ValueError, KeyError, TypeError, RecursionError):
        named = []
    if named != [manifest_sha256]:
        raise _refuse(
            f"the signature is of the manifest {str(named[:1])[2:18]}, this one is {manifest_sha256[:16]}",
            "take bundle and signature from one build",
        )


def _signatures(line: str) -> list[tuple[str, bytes, bytes]]:
    try:
        envelope = json.loads(line)
        kind, payload = str(envelope["payloadType"]), base64.b64decode(envelope["payload"], validate=True)
        return [(kind, payload, base64.b64decode(item["sig"], validate=True)) for item in envelope["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refuse(
            f"a line of the signatures is no DSSE envelope ({type(error).__name__})", "get it again"
        ) from error


def _key_ids(line: str) -> list[str]:
    try:
        return [str(item.get("keyid", "")) for item in json.loads(line)["signatures"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    lines = data.decode("utf-8", "replace").splitlines()
    if len(data) > _MAX_BYTES or len(lines) > _MAX_SIGNATURES:
        raise _refuse(f"{path.name} is over {_MAX_SIGNATURES} signatures or {_MAX_BYTES} bytes", "get it again")
    return [line for line in lines if line.strip()]


def _private_key(path: Path, password: bytes | None) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _key_bytes(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RefusedError(
            f"refused to sign with {path}", "other users may read this private key", f"run `chmod 600 {path}`"
        )
    try:
        key = load_pem_private_key(data, password)
    except (ValueError, TypeError) as error:
        raise _no_key(path, " ".join(str(error).split())[:200], f"make one: {_MAKE_KEY}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, f"it is {type(key).__name__.strip('_')}, not Ed25519", f"make one: {_MAKE_KEY}")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(path))
    except ValueError as error:
        raise _no_key(path, " ".join(str(error).split())[:200], f"make it: {_PUBLIC_KEY}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, f"it is {type(key).__name__.strip('_')}, not Ed25519", "ask for the Ed25519 public key")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise _no_key(path, error.strerror or str(error), f"make one: {_MAKE_KEY}") from error


def _no_key(path: Path, why: str, fix: str) -> InputError:
    return InputError(f"cannot use the key {path}", why, fix)


def _refuse(why: str, fix: str) -> RefusedError:
    return RefusedError("refused: the bundle is not signed by that key", why, fix)
