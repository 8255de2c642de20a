"""Opens bundles for measuring: a private copy of each, re-hashed, never running a line of what is inside."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.request import Entrant
from pipeline.bundling.archive import ArchiveLimits, extract_archive
from pipeline.bundling.manifest import MANIFEST_NAME, Manifest, read_manifest, regular_files
from pipeline.bundling.trust import check_trusted
from pipeline.bundling.verify import check_files, only_folder
from targets.engines.base import EngineBuild, Port
from targets.errors import InputError, RefusedError
from targets.files import disk_guard
from targets.ondevice.arrays import read_arrays, write_arrays
from targets.ondevice.failure import Failure
from targets.ondevice_errors import from_failure

if TYPE_CHECKING:
    import numpy.typing as npt

_LIMITS: Final = ArchiveLimits(entries=10_000)
_REBUILD: Final = "take the bundle again from where it was built, or build it again with `edgepress run`"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBundle:
    """A bundle that holds what its manifest says.

    Attributes:
        name: How results call it; unique among those opened together.
        folder: A private copy; also an engine folder.
        manifest: What it says of itself.
        build: Its engine.
        entrant: The same for a campaign.
    """

    name: str
    folder: Path
    manifest: Manifest
    build: EngineBuild
    entrant: Entrant


def open_bundles(paths: Sequence[Path], scratch: Path, *, samples: Path | None = None) -> tuple[OpenBundle, ...]:
    """Copies or unpacks bundles into ``scratch`` and checks every byte there, so that none can change meanwhile.

    Args:
        paths: Folders or .tar.gz; untrusted.
        scratch: A private folder.
        samples: An .npz of samples to time instead of each bundle's golden ones; their outputs are not known.

    Raises:
        InputError: There is no bundle, or their engines do not take the same inputs.
        RefusedError: A file is changed, missing, extra or a link, an archive is not plain, or an engine is a
            stranger's native code.
        EnvironmentFailure: The disk is full.
    """
    found = []
    for index, path in enumerate(paths):
        folder = _copy(path, scratch / f"bundle-{index}")
        manifest = read_manifest(folder / MANIFEST_NAME)
        check_files(folder, manifest)
        check_trusted(folder, manifest)
        found.append((folder, manifest, _engine(folder, manifest)))
    _check_same_inputs([build for _, _, build in found], paths)
    names = engine_names([build.precision for _, _, build in found], paths)
    return tuple(
        OpenBundle(
            name=name,
            folder=folder,
            manifest=manifest,
            build=build,
            entrant=_entrant(name, folder, manifest, samples, scratch / f"expected-{index}.npz"),
        )
        for index, (name, (folder, manifest, build)) in enumerate(zip(names, found, strict=True))
    )


def engine_names(precisions: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """A unique name for each: its precision where that tells them apart, else as much of its path as is needed."""
    if len(set(precisions)) == len(precisions):
        return list(precisions)
    parts = [[part for part in path.absolute().parts if part not in {"/", "bundle", "bundle.tar.gz"}] for path in paths]
    longest = max(len(item) for item in parts)
    for length in range(1, longest + 1):
        names = ["/".join(item[-length:]) for item in parts]
        if len(set(names)) == len(names):
            return names
    seen: Counter[str] = Counter()
    unique = []
    for name in ("/".join(item[-1:]) for item in parts):
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _copy(path: Path, target: Path) -> Path:
    """A private copy of the bundle's plain files; links and folders inside are refused."""
    if not path.exists():
        raise InputError(
            f"there is no bundle {path}", "no such file or folder", "give the folder or .tar.gz that a run has written"
        )
    with disk_guard(f"copying {path}", path=target.parent):
        if not path.is_dir():
            extract_archive(path, target, limits=_LIMITS)
            return only_folder(target, path)
        target.mkdir()
        for file in regular_files(path):
            shutil.copyfile(file, target / file.name, follow_symlinks=False)
    return target


def _engine(folder: Path, manifest: Manifest) -> EngineBuild:
    """The engine, which must be the file that the manifest means."""
    build = EngineBuild.read(folder)
    entry = manifest.files.get(build.file)
    if entry is None or not entry.sha256 == manifest.engine_sha256 == build.sha256:
        raise RefusedError(
            f"refused: engine.json of {manifest.name!r} is for another engine",
            f"it names {build.file!r}, which is not the file that {MANIFEST_NAME} calls the engine",
            _REBUILD,
        )
    return build


def _entrant(name: str, folder: Path, manifest: Manifest, samples: Path | None, expected: Path) -> Entrant:
    if samples is not None:
        return Entrant(name=name, folder=folder, samples=samples)
    golden = folder / manifest.golden.file
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        for output, array in read_arrays(str(golden), "output.").items():
            arrays[f"output.{output}"] = array
        for output, atol in manifest.golden.atol.items():
            arrays[f"atol.{output}"] = _scalar(atol)
        with disk_guard("preparing the expected outputs", path=expected.parent):
            write_arrays(str(expected), arrays)
    except Failure as failure:
        raise from_failure(failure) from failure
    return Entrant(name=name, folder=folder, samples=golden, expected=expected)


def _scalar(value: float) -> npt.NDArray[Any]:
    import numpy as np

    return np.asarray(value, np.float64)


def _check_same_inputs(builds: Sequence[EngineBuild], paths: Sequence[Path]) -> None:
    """Engines that take different inputs do different work: their latencies are no comparison."""
    first = _signature(builds[0].inputs)
    for build, path in zip(builds[1:], paths[1:], strict=True):
        found = _signature(build.inputs)
        if found != first:
            raise InputError(
                "the bundles take different inputs",
                f"{paths[0]} takes {_ports(builds[0].inputs)}; {path} takes {_ports(build.inputs)}",
                "measure them one by one, or give bundles of the same task",
            )


def _signature(ports: Sequence[Port]) -> list[tuple[object, ...]]:
    """Names, types and sizes, batch and free dimensions left open."""
    return sorted((p.name, p.dtype, tuple(d if isinstance(d, int) else None for d in p.shape[1:])) for p in ports)


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{p.name} {p.dtype}{list(p.shape)}" for p in ports)
