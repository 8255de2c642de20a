"""An engine built on this device: it lies in ``built/`` of the folder delivered, which stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .failure import BAD_INPUT, REFUSED, Failure
from .session import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BUILT = "built"


def place_of(folder: Path) -> Path:
    """Where the engine of ``folder`` is to be built: ``built/`` of what was delivered, else the folder itself.

    Raises:
        Failure: ``built`` is a link (4).
    """
    return _own(folder) if waits_for_device(folder) else folder


def waits_for_device(folder: Path) -> bool:
    """Whether the device makes the engine of this folder."""
    path = folder / "engine.json"
    return path.is_file() and read_json(path).get("build_on_device") is True


def engine_folder(folder: Path) -> Path:
    """The folder whose engine runs: ``built/`` where the device had to build it, else ``folder`` itself.

    Raises:
        Failure: It is not built yet (3), or what lies there is a link or was built from another model (4).
    """
    if not waits_for_device(folder):
        return folder
    built, fix = _own(folder), f"on the device: python ondevice.pyz build {folder}"
    if not (built / "engine.json").is_file():
        raise Failure(
            BAD_INPUT, "the engine is not built on this device yet", "the folder holds a model and how to build it", fix
        )
    made_from, model = read_json(built / "engine.json").get("source_sha256"), read_json(folder / "engine.json")
    if made_from != model.get("sha256"):
        raise Failure(
            REFUSED, "the engine built here is of another model",
            "it was built from {}, the folder's is {}".format(made_from, model.get("sha256")), fix,
        )  # fmt: skip
    return built


def _own(folder: Path) -> Path:
    built = folder / BUILT
    if built.is_symlink():
        raise Failure(
            REFUSED, f"{BUILT} is a link", "an engine is code and lies in its own folder",
            f"remove {built}, then: python ondevice.pyz build {folder}",
        )  # fmt: skip
    return built


def need_built(spec: Mapping[str, Any]) -> None:
    """Refuses to open what has yet to be built.

    Raises:
        Failure: The device makes this engine, and has not (3).
    """
    if spec.get("build_on_device") is True:
        raise Failure(
            BAD_INPUT, "the engine is not built on this device yet", "the folder holds a model and how to build it",
            "on the device: python ondevice.pyz build FOLDER",
        )  # fmt: skip
