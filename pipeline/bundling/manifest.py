"""The manifest of a bundle: every file's size and sha256, what was built, and how exact its answers must be.

The manifest closes with the sha256 of its own content, so that damage to the manifest itself is seen too. That finds
accidents and careless edits; it is not a signature: who can write the bundle can write a new manifest.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from targets.errors import InputError, RefusedError
from targets.files import sha256_bytes, sha256_file, write_atomic

MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1 << 20  # what the device program accepts
_SEAL: Final = "manifest_sha256"
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REBUILD: Final = "take the bundle again from where it was built, or build it again with `edgepress run`"


def _safe_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


FileName = Annotated[str, AfterValidator(_safe_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ManifestFile(_Data):
    """One file of the bundle.

    Attributes:
        sha256: Its digest, in hex.
        size_bytes: Its size; ``bytes`` in the file.
    """

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, alias="bytes")]


class Golden(_Data):
    """How the golden vectors are checked: ``|got - expected| <= atol[output] + rtol * |expected|``, everywhere.

    Attributes:
        file: The npz with ``input.<name>`` and ``output.<name>`` arrays, samples along axis 0.
        samples: How many samples it holds.
        rtol: Relative tolerance.
        atol: Absolute tolerance of each output, by its name.
    """

    file: FileName
    samples: Annotated[int, Field(ge=1)]
    rtol: Annotated[float, Field(ge=0)]
    atol: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]


class Manifest(_Data):
    """What ``manifest.json`` says.

    Attributes:
        schema_version: Version of this layout; ``schema`` in the file.
        name: The recipe's name.
        target: The target profile's name.
        precision: ``int8``, ``fp32``, ...
        files: Every file of the bundle but the manifest, by name.
        golden: How to check the answers.
        engine_sha256: Digest of the engine file; one of ``files`` has it.
        versions: Versions of what built and measured the engine.
        accuracy: What it scored, by split.
        profile: The target profile, as data.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: Annotated[str, Field(min_length=1)]
    target: Annotated[str, Field(min_length=1)]
    precision: Annotated[str, Field(min_length=1)]
    files: Annotated[dict[FileName, ManifestFile], Field(min_length=1, max_length=10_000)]
    golden: Golden
    engine_sha256: Sha256
    versions: dict[str, str] = {}
    accuracy: dict[str, Any] = {}
    profile: dict[str, Any] = {}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if MANIFEST_NAME in self.files:
            raise ValueError("the manifest lists itself")
        if len({name.casefold() for name in self.files}) != len(self.files):
            raise ValueError("two files have the same name but for upper and lower case")
        if self.golden.file not in self.files:
            raise ValueError(f"the golden vectors {self.golden.file!r} are not among the files")
        if all(entry.sha256 != self.engine_sha256 for entry in self.files.values()):
            raise ValueError("no file has the digest of the engine")
        return self

    @property
    def total_bytes(self) -> int:
        """Size of all files listed."""
        return sum(entry.size_bytes for entry in self.files.values())


def write_manifest(folder: Path, fields: Mapping[str, object]) -> Manifest:
    """Hashes every file of ``folder`` and writes its manifest, atomically and last.

    Args:
        folder: A finished bundle: regular files only, no folders below.
        fields: All of `Manifest` but ``schema`` and ``files``.

    Raises:
        InputError: A file's name is not portable, or a field is missing, unknown or of the wrong type.
        RefusedError: The folder holds a link or anything else but regular files.
    """
    files = {
        path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in regular_files(folder)
        if path.name != MANIFEST_NAME
    }
    content: dict[str, object] = {"schema": 1, **fields, "files": files}
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"cannot write the manifest of {folder}", _first(error), "bundle an engine folder that `build` has written"
        ) from error
    write_atomic(folder / MANIFEST_NAME, _sealed_bytes(content))
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest at ``path``, checked: sealed, complete, plain file names, consistent digests.

    Raises:
        InputError: There is no such file, or a newer edgepress wrote it.
        RefusedError: It is not, byte for byte, what edgepress wrote.
    """
    content = _parse(path, _read(path))
    if isinstance(content.get("schema"), int) and content["schema"] > 1:
        raise InputError(
            f"cannot read {path}",
            f"it has layout {content['schema']}, this edgepress knows 1",
            "install a newer edgepress",
        )
    try:
        manifest = Manifest.model_validate({key: value for key, value in content.items() if key != _SEAL})
    except ValidationError as error:
        _refuse(path, _first(error))
    return manifest


def regular_files(folder: Path) -> Iterator[Path]:
    """The files of a bundle folder, sorted by name.

    Raises:
        RefusedError: It holds a link, a folder, a device: anything but regular files.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise RefusedError(
                f"refused: {entry.name!r} in {folder} is {kind}",
                "a bundle holds regular files only",
                f"remove {entry.name!r} from the folder, or {_REBUILD}",
            )
        yield Path(entry.path)


def requirements_text(*, runtime: str, version: str) -> str:
    """The device's ``requirements.txt``: numpy, and exactly the runtime the engine was built and measured with.

    TensorRT is no package there: it comes with the system of the device (JetPack), and pip must not replace it.
    """
    number = re.match(r"[0-9]+(\.[0-9]+)*", version)
    if runtime == "tensorrt":
        tested = f" (tested with {number[0]})" if number else ""
        return f"numpy>=1.23\n# tensorrt{tested}: from the device's own system (apt install python3-libnvinfer)\n"
    pinned = f"=={number[0]}" if number else ""
    return f"numpy>=1.26\n{runtime.replace('_', '-')}{pinned}\n"


def _sealed_bytes(content: Mapping[str, object]) -> bytes:
    seal = sha256_bytes(_dump({key: value for key, value in content.items() if key != _SEAL}))
    return _dump({**content, _SEAL: seal})


def _dump(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {path}",
            error.strerror or str(error),
            "give the folder or .tar.gz that `edgepress run` has written",
        ) from error
    if len(data) > MAX_MANIFEST_BYTES:
        _refuse(path, f"it is over {MAX_MANIFEST_BYTES} bytes")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data, parse_constant=_no_constant)
        canonical = isinstance(content, dict) and _sealed_bytes(content) == data
    except (ValueError, RecursionError) as error:
        _refuse(path, f"it is not JSON: {error}")
    if not canonical:
        _refuse(path, f"its content does not match its own {_SEAL}")
    return dict(content)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _first(error: ValidationError) -> str:
    item = error.errors(include_url=False, include_input=False)[0]
    where = repr(".".join(str(part) for part in item["loc"]))[1:-1]  # names come from the file: keep them on one line
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _refuse(path: Path, why: str) -> NoReturn:
    raise RefusedError(f"refused: {path.name} was changed or damaged", why, _REBUILD)
