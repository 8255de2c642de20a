"""The bill of materials of a bundle: CycloneDX 1.6 with a model card (ML-BOM), the same bytes for the same bundle."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.lineage import Ancestor

BOM_NAME: Final = "bom.cdx.json"
_SPACE: Final = uuid.UUID("6f1c3a0e-8f1b-5d0a-9d5e-2a6c5b1f7e40")
_Z95: Final = 1.959964


def bom_bytes(
    files: Mapping[str, str],
    lineage: Sequence[Ancestor],
    *,
    engine: Mapping[str, Any],
    fields: Mapping[str, Any],
    samples: int | None = None,
) -> bytes:
    """``bom.cdx.json``.

    Args:
        files: File name to sha256.
        lineage: Every stage behind the engine.
        engine: ``engine.json``.
        fields: The manifest's ``name``, ``target``, ``precision``, ``versions`` and ``accuracy``.
        samples: How many validation samples the accuracy is of, for its interval; None where it is no share of them.
    """
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": fields["name"],
        "description": f"{fields['precision']} engine for {fields['target']}",
        "hashes": _hashes(files[engine["file"]]),
        "modelCard": _card(lineage, engine, fields, samples),
    }
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, json.dumps([sorted(files.items()), fields], sort_keys=True))}",
        "version": 1,
        "metadata": {"component": model, "tools": {"components": [_package("edgepress", fields)]}},
        "components": [*_files(files), *_packages(lineage, fields), *_data(lineage)],
    }
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _files(files: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _hashes(sha256)}
        for name, sha256 in sorted(files.items())
    ]


def _package(name: str, fields: Mapping[str, Any], version: str = "") -> dict[str, Any]:
    version = version or str(fields.get("versions", {}).get(name, ""))
    described = {"version": version, "purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}"} if version else {}
    return {"type": "application" if name == "edgepress" else "library", "name": name, **described}


def _packages(lineage: Sequence[Ancestor], fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = {name: version for item in lineage for name, version in item.tools.items()} | fields.get("versions", {})
    return [
        {**_package(name, fields, str(version)), "bom-ref": f"package:{name}"}
        for name, version in sorted(tools.items())
    ]


def _data(lineage: Sequence[Ancestor]) -> list[dict[str, Any]]:
    """What was learned and calibrated from, by the digest of its checked content."""
    return [
        {
            "type": "data",
            "bom-ref": f"data:{item.node}",
            "name": item.node,
            "data": [{"type": "dataset", "name": item.node}],
            "properties": [{"name": "edgepress:digest", "value": item.digest}],
        }
        for item in lineage
        if item.stage == "data"
    ]


def _card(
    lineage: Sequence[Ancestor], engine: Mapping[str, Any], fields: Mapping[str, Any], samples: int | None
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "inputs": [{"format": _format(item)} for item in engine.get("inputs", [])],
        "outputs": [{"format": _format(item)} for item in engine.get("outputs", [])],
    }
    if any(item.stage in {"train", "distill"} for item in lineage):
        parameters["approach"] = {"type": "supervised"}
    if datasets := [{"ref": f"data:{item.node}"} for item in lineage if item.stage == "data"]:
        parameters["datasets"] = datasets
    card: dict[str, Any] = {"modelParameters": parameters}
    accuracy = fields.get("accuracy", {})
    if "validation" in accuracy:
        metric = {
            "type": str(accuracy.get("metric", "accuracy")),
            "value": repr(float(accuracy["validation"])),
            "slice": "validation",
        }
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [{**metric, **_interval(accuracy["validation"], samples)}]
        }
    return card


def _format(port: Mapping[str, Any]) -> str:
    return f"{port.get('name')}: {port.get('dtype')} {list(port.get('shape', []))}"


def _interval(share: float, samples: int | None) -> dict[str, Any]:
    """The 95 % interval of a share of independent samples (Wilson 1927)."""
    if not samples or not 0 <= share <= 1:
        return {}
    squared = _Z95**2
    middle = (share + squared / (2 * samples)) / (1 + squared / samples)
    half = _Z95 / (1 + squared / samples) * (share * (1 - share) / samples + squared / (4 * samples**2)) ** 0.5
    return {
        "confidenceInterval": {
            "lowerBound": repr(round(max(0.0, middle - half), 6)),
            "upperBound": repr(round(min(1.0, middle + half), 6)),
        }
    }
