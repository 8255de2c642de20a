"""What the store knows about one result, and its self-checked record on disk."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pipeline.store.keys import SCHEMA, canonical_json
from targets.files import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_NOTES: Final[Mapping[str, object]] = MappingProxyType({})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class DamageError(Exception):
    """Something in the store is not what was put there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """One file of a result.

    Attributes:
        name: Relative posix path inside the artifact.
        sha256: Of its bytes, 64 hex digits.
        size_bytes: Its length.
    """

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result of one stage.

    Attributes:
        key: What it was made of (`make_key`).
        stage: Which stage made it.
        digest: sha256 over names and hashes of its files and over ``meta``; what the keys of later stages hold.
        files: Its files, sorted by name.
        meta: Its small results, plain JSON.
        measured: Whether running again would give other bytes (a measurement), so that digests may differ.
        notes: How it came about (seconds it took), plain JSON; no part of the digest.
    """

    key: str
    stage: str
    digest: str
    files: tuple[FileRef, ...]
    meta: Mapping[str, object]
    measured: bool
    notes: Mapping[str, object] = field(default_factory=dict)


def make_entry(
    key: str,
    stage: str,
    files: Sequence[FileRef],
    meta: Mapping[str, object],
    *,
    measured: bool,
    notes: Mapping[str, object] = NO_NOTES,
) -> Entry:
    """An entry with its digest; ``meta`` and ``notes`` as they will be read back.

    Raises:
        ValueError: A name leaves the artifact or comes twice, a hash or the key is no sha256, or ``meta`` holds a
            NaN or an infinity.
        TypeError: ``meta`` is not plain JSON.
    """
    files = tuple(sorted(files, key=lambda ref: ref.name))
    for ref in files:
        check_name(ref.name)
        check_sha256(ref.sha256)
    if len({ref.name for ref in files}) != len(files):
        raise ValueError("two files of one result have the same name")
    meta, notes = json.loads(canonical_json(meta)), json.loads(canonical_json(notes))
    digest = sha256_bytes(canonical_json({"files": [[ref.name, ref.sha256] for ref in files], "meta": meta}))
    return Entry(
        key=check_sha256(key), stage=stage, digest=digest, files=files, meta=meta, measured=measured, notes=notes
    )


def check_name(name: str) -> str:
    """The name of a file in an artifact, if it stays inside.

    Raises:
        ValueError: It is absolute, empty, or has a part that is empty, ``.`` or ``..``, a backslash or a NUL.
    """
    if any(part in {"", ".", ".."} for part in name.split("/")) or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file inside an artifact")
    return name


def is_sha256(text: str) -> bool:
    """Whether a text is 64 lower-case hex digits, and so safe as a file name."""
    return _SHA256.fullmatch(text) is not None


def check_sha256(text: str) -> str:
    """The text, if it is a sha256.

    Raises:
        ValueError: It is anything else.
    """
    if not is_sha256(text):
        raise ValueError(f"{text!r} is not a sha256")
    return text


def write_record(entry: Entry) -> bytes:
    """The record of an entry: canonical JSON with schema version and its own checksum."""
    body = {
        "schema": SCHEMA,
        "key": entry.key,
        "stage": entry.stage,
        "digest": entry.digest,
        "files": [[ref.name, ref.sha256, ref.size_bytes] for ref in entry.files],
        "meta": entry.meta,
        "measured": entry.measured,
        "notes": entry.notes,
    }
    return canonical_json({**body, "checksum": sha256_bytes(canonical_json(body))})


def read_record(data: bytes, key: str) -> Entry | None:
    """The entry of a record, or None for a record of another schema version.

    Raises:
        DamageError: It is not, bit for bit, what `write_record` wrote for this key.
    """
    try:
        body = json.loads(data)
        if isinstance(body, dict) and type(body.get("schema")) is int and body["schema"] != SCHEMA:
            return None
        entry = _entry(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamageError(f"its record cannot be read ({type(error).__name__})") from error
    if entry.key != key or write_record(entry) != data:
        raise DamageError("its record does not match its checksum")
    return entry


def _entry(body: Any) -> Entry:  # noqa: ANN401  # whatever a file held
    files = [FileRef(name=name, sha256=sha256, size_bytes=size) for name, sha256, size in body["files"]]
    return make_entry(body["key"], body["stage"], files, body["meta"], measured=body["measured"], notes=body["notes"])
