"""Says how an engine came about, as an in-toto Statement v1 with an SLSA v1 predicate.

It holds no time, host, user or path: the same recipe gives the same statement. Sources: in-toto Attestation Framework
v1 (statement, resource descriptor), SLSA v1.0 "Provenance".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.lineage import Ancestor

PROVENANCE_NAME: Final = "provenance.json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
_BUILD_TYPE: Final = "urn:edgepress:recipe:v1"
_BUILDER: Final = "urn:edgepress:builder:v1"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def provenance_bytes(files: Mapping[str, str], lineage: Sequence[Ancestor], *, name: str, target: str) -> bytes:
    """``provenance.json``.

    Args:
        files: What it speaks for: file name to sha256.
        lineage: Every stage behind the engine, in the order of the run.
        name: The recipe's name.
        target: The target's name.
    """
    statement = statement_of(files, predicate(lineage, name=name, target=target))
    return (json.dumps(statement, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def statement_of(files: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement that says ``predicate`` of ``files``."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(files.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }


def predicate(lineage: Sequence[Ancestor], *, name: str, target: str) -> dict[str, Any]:
    """The SLSA predicate of a run."""
    stages = [
        {
            "node": item.node,
            "stage": item.stage,
            "version": item.version,
            "measured": item.measured,
            "configuration": item.configuration,
        }
        for item in lineage
    ]
    tools = {tool: version for item in lineage for tool, version in item.tools.items()}
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {"recipe": name, "target": target, "stages": stages},
            "resolvedDependencies": [*_sources(lineage), *_packages(tools)],
        },
        "runDetails": {
            "builder": {"id": _BUILDER, "version": {"edgepress": tools["edgepress"]} if "edgepress" in tools else {}},
            "byproducts": [{"name": item.node, "digest": {"edgepressResult": item.digest}} for item in lineage],
        },
    }


def _packages(tools: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for tool, version in sorted(tools.items()):
        yield {"name": tool, "uri": f"pkg:pypi/{tool}@{version.replace('+', '%2B')}"}


def _sources(lineage: Iterable[Ancestor]) -> list[dict[str, Any]]:
    """The user's code and files by their hashes, wherever they stand in the configuration, each once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for item in lineage:
        for path, sha256 in _hashes(item.configuration, ""):
            found.setdefault((path, sha256), {"name": path, "digest": {"sha256": sha256}})
    return [found[key] for key in sorted(found)]


def _hashes(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            inner = path if key in {"sha256", "source_sha256"} else f"{path}.{key}".lstrip(".")
            yield from _hashes(item, inner)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _hashes(item, f"{path}[{number}]")
    elif isinstance(value, str) and _SHA256.fullmatch(value):
        yield path, value
