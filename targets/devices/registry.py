"""The user's devices by name, in one private file: how each is reached, and how it is known to be the same."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from targets.devices.pinning import HostKey, SshHost
from targets.errors import InputError, RefusedError, faults_error, nearest
from targets.faults import faults_of
from targets.files import disk_guard, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from targets.devices.transport import Transport

FILE_NAME: Final = "devices.json"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_RESERVED: Final = frozenset({"local"})
_MAX_BYTES: Final = 1 << 20
PLAIN_PATH: Final = r"^[A-Za-z0-9/_.][A-Za-z0-9/_.+-]{0,254}$"
_SERIAL: Final = r"^[A-Za-z0-9._:\[\]][A-Za-z0-9._:\[\]-]{0,127}$"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str = Field("python3", pattern=PLAIN_PATH)
    target: str | None = None


class SshEntry(_Entry):
    """A device reached by ssh."""

    kind: Literal["ssh"] = "ssh"
    host: str
    port: int | None = Field(None, ge=1, le=65535)
    host_key: str

    @field_validator("host")
    @classmethod
    def _plain_host(cls, value: str) -> str:
        try:
            SshHost.parse(value)
        except (RefusedError, InputError) as error:
            raise ValueError(error.why) from error
        return value

    @field_validator("host_key")
    @classmethod
    def _is_key(cls, value: str) -> str:
        HostKey.parse(value)
        return value

    @property
    def place(self) -> SshHost:
        """Host and port."""
        return SshHost(host=self.host, port=self.port)

    @property
    def identity(self) -> str:
        """What it is known by, for people."""
        key = HostKey.parse(self.host_key)
        return f"{key.kind} {key.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """What a person compares."""
        return HostKey.parse(self.host_key).fingerprint

    @property
    def address(self) -> str:
        """Where it is, for people, as `SshHost.parse` reads it."""
        user, at, place = self.host.rpartition("@")
        if self.port is None:
            return self.host
        return f"{user}{at}[{place}]:{self.port}" if ":" in place else f"{self.host}:{self.port}"

    def transport(self, name: str) -> Transport:
        """A connection to it, not yet open."""
        from targets.devices.ssh import SshTransport

        return SshTransport(name, self.place, HostKey.parse(self.host_key))


class AdbEntry(_Entry):
    """A device reached by adb."""

    kind: Literal["adb"] = "adb"
    serial: str = Field(pattern=_SERIAL)
    model: str = Field(min_length=1, max_length=256)
    build: str = Field(min_length=1, max_length=256)
    tcp: bool = False
    folder: str = Field("/data/local/tmp/edgepress", pattern=r"^/[A-Za-z0-9/_.+-]{1,200}$")

    @property
    def identity(self) -> str:
        """What it is known by, for people."""
        return f"{self.model}, build {self.build}"

    @property
    def fingerprint(self) -> str:
        """What a person compares."""
        return self.build

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return self.serial

    def transport(self, name: str) -> Transport:
        """A connection to it, not yet open."""
        from targets.devices.adb import AdbTransport

        return AdbTransport(name, self.serial, model=self.model, build=self.build, tcp=self.tcp, folder=self.folder)


_E = TypeVar("_E", bound=_Entry)
Entry = Annotated[SshEntry | AdbEntry, Field(discriminator="kind")]
_ENTRIES: Final = TypeAdapter(dict[str, Entry])


class Registry:
    """The file ``devices.json`` in the user's configuration; ``EDGEPRESS_DEVICES`` names another folder for it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _folder()

    def entries(self) -> dict[str, SshEntry | AdbEntry]:
        """All registered devices, by name.

        Raises:
            InputError: The file is damaged.
            RefusedError: Others can write to it.
            EnvironmentFailure: It cannot be read.
        """
        path = self.folder / FILE_NAME
        if not path.exists():
            return {}
        for place in (self.folder, path):
            self._check_private(place)
        with disk_guard(f"reading {path}"):
            data = path.read_bytes()
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError("it is too large")  # noqa: TRY301 - one handler for all that is wrong with the file
            return _ENTRIES.validate_python(json.loads(data)["devices"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = _first_fault(error) if isinstance(error, ValidationError) else repr(error)[:300]
            raise InputError(
                f"the list of devices {path} is damaged", why, "mend it, or remove it and add the devices again"
            ) from error

    def entry(self, name: str) -> SshEntry | AdbEntry:
        """One registered device.

        Raises:
            InputError: There is none of that name; says which are near.
        """
        entries = self.entries()
        if name not in entries:
            hint = nearest(name, ["local", *entries])
            raise InputError(f"there is no device {name!r}", hint, "see `edgepress devices list`, or add it")
        return entries[name]

    def check_free(self, name: str) -> None:
        """Says early that a device cannot be added under that name.

        Raises:
            InputError: It is not a name, or in use.
        """
        if not _NAME.fullmatch(name) or name in _RESERVED:
            why = "a name has small letters, digits and ._- and starts with a letter or digit; local is this machine"
            raise InputError(f"{name!r} is no name for a device", why, "choose another name")
        if name in self.entries():
            raise InputError(
                f"there is a device {name!r} already",
                self.entry(name).address,
                "choose another name, or remove it first",
            )

    def put(self, name: str, entry: SshEntry | AdbEntry, *, replace: bool = False) -> None:
        """Adds a device, or replaces one.

        Raises:
            InputError: The name is not one, or is in use (or, to replace, is not).
        """
        with self._changing() as entries:
            if replace:
                self.entry(name)
            else:
                self.check_free(name)
            entries[name] = entry

    def remove(self, name: str) -> None:
        """Forgets a device.

        Raises:
            InputError: There is none of that name.
        """
        self.entry(name)
        with self._changing() as entries:
            entries.pop(name, None)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, SshEntry | AdbEntry]]:
        with disk_guard(f"making {self.folder}"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_private(self.folder)
            lock = os.open(self.folder / f".{FILE_NAME}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self.entries()
            yield entries
            document = {"version": 1, "devices": {k: v.model_dump(mode="json") for k, v in sorted(entries.items())}}
            write_atomic(self.folder / FILE_NAME, (json.dumps(document, indent=1) + "\n").encode(), 0o600)
        finally:
            os.close(lock)

    @staticmethod
    def _check_private(place: Path) -> None:
        with disk_guard(f"reading {place}"):
            status = place.stat()
        if status.st_uid not in {os.getuid(), 0} or status.st_mode & 0o022:
            raise RefusedError(
                f"refused to trust {place}",
                "others can write to it, and so could name another device",
                f"chmod go-w {place}, and check what it says",
            )


def checked(kind: type[_E], values: Mapping[str, object]) -> _E:
    """An entry from what a user gave.

    Raises:
        InputError: A value is not valid; says which.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise faults_error("the device", faults_of(error, kind)) from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return "{}: {}".format(".".join(map(str, fault["loc"])) or "the list", fault["msg"])


def _folder() -> Path:
    named = os.environ.get("EDGEPRESS_DEVICES")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgepress"
