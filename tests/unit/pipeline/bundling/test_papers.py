"""Provenance and bill of materials: valid by their schemas, complete, and the same for the same bundle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundling.bom import _interval, bom_bytes
from pipeline.bundling.provenance import provenance_bytes
from pipeline.lineage import Ancestor

FILES = {"engine.onnx": "a" * 64, "engine.json": "b" * 64, "golden.npz": "c" * 64}
ENGINE = {
    "file": "engine.onnx",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
}
FIELDS: dict[str, Any] = {
    "name": "digits", "target": "host", "precision": "int8",
    "versions": {"onnxruntime": "1.32.0", "edgepress": "0.1.0"},
    "accuracy": {"metric": "accuracy", "validation": 0.9},
}  # fmt: skip


def _ancestor(node: str, stage: str, **configuration: object) -> Ancestor:
    return Ancestor(
        node=node, stage=stage, version=3, configuration=configuration, digest="d" * 64, measured=False,
        tools={"torch": "2.13.0+cpu", "edgepress": "0.1.0"},
    )  # fmt: skip


LINEAGE = (
    _ancestor("data", "data", source={"factory": {"function": "load", "source_sha256": "1" * 64}}),
    _ancestor("train", "train", epochs=3, factory={"function": "net", "source_sha256": "2" * 64}),
    _ancestor("build:int8", "build", precision="int8", files=[{"sha256": "3" * 64}]),
)


def _statement() -> dict[str, Any]:
    return json.loads(provenance_bytes(FILES, LINEAGE, name="digits", target="host"))  # type: ignore[no-any-return]


def test_provenance_is_valid_by_the_published_definitions() -> None:
    """Promise S15: in-toto's own definitions of statement and SLSA predicate take every field, and know all of them."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    statement = _statement()
    json_format.ParseDict(statement["predicate"], provenance_pb2.Provenance(), ignore_unknown_fields=False)
    parsed = json_format.ParseDict(statement, statement_pb2.Statement(), ignore_unknown_fields=False)
    Statement.copy_from_pb(parsed).validate()


def test_provenance_tells_all_that_went_in() -> None:
    """Promise S15: every file, stage, configuration, source and tool is there, each hash at the name it stands for."""
    statement = _statement()
    assert {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} == FILES
    definition = statement["predicate"]["buildDefinition"]
    assert [stage["node"] for stage in definition["externalParameters"]["stages"]] == ["data", "train", "build:int8"]
    assert definition["externalParameters"]["stages"][1]["configuration"]["epochs"] == 3
    sources = {
        item["name"]: item["digest"]["sha256"][0] for item in definition["resolvedDependencies"] if "digest" in item
    }
    assert sources == {"source.factory": "1", "factory": "2", "files[0]": "3"}
    uris = [item["uri"] for item in definition["resolvedDependencies"] if "uri" in item]
    assert uris == ["pkg:pypi/edgepress@0.1.0", "pkg:pypi/torch@2.13.0%2Bcpu"]
    byproducts = statement["predicate"]["runDetails"]["byproducts"]
    assert [item["name"] for item in byproducts] == ["data", "train", "build:int8"]


def _bom(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    options: dict[str, Any] = {"engine": ENGINE, "fields": FIELDS, "samples": 100, **changes}
    return json.loads(bom_bytes(FILES, LINEAGE, **options))  # type: ignore[no-any-return]


@pytest.mark.parametrize("samples", [100, None])
def test_the_bill_of_materials_is_valid_by_its_schema(samples: int | None) -> None:
    """Promise S15: CycloneDX 1.6, strictly: no unknown field, every form kept."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = json.dumps(_bom(samples=samples))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"library"', '"libary"')) is not None


def test_the_bill_of_materials_tells_the_model() -> None:
    """Promise S15: engine hash, inputs, data, packages, and the accuracy with its interval."""
    bom = _bom()
    model = bom["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    card = model["modelCard"]
    assert card["modelParameters"]["inputs"] == [{"format": "x: float32 ['batch', 3]"}]
    assert card["modelParameters"]["datasets"] == [{"ref": "data:data"}]
    (metric,) = card["quantitativeAnalysis"]["performanceMetrics"]
    assert metric["value"] == "0.9"
    assert metric["confidenceInterval"] == {"lowerBound": "0.825634", "upperBound": "0.944771"}  # Wilson, 90 of 100
    packages = {item["name"]: item.get("purl") for item in bom["components"] if item["type"] == "library"}
    assert packages == {"torch": "pkg:pypi/torch@2.13.0%2Bcpu", "onnxruntime": "pkg:pypi/onnxruntime@1.32.0"}


def test_papers_have_no_time_host_or_path() -> None:
    """Promise S15: the same bundle has the same papers, in any order of its files."""
    backwards = dict(reversed(FILES.items()))
    assert provenance_bytes(backwards, LINEAGE, name="digits", target="host") == provenance_bytes(
        FILES, LINEAGE, name="digits", target="host"
    )
    options: dict[str, Any] = {"engine": ENGINE, "fields": FIELDS, "samples": 100}
    assert bom_bytes(backwards, LINEAGE, **options) == bom_bytes(FILES, LINEAGE, **options)
    assert "timestamp" not in json.dumps(_bom())


@given(right=st.integers(0, 1000), more=st.integers(0, 1000))
def test_the_interval_holds_the_share(right: int, more: int) -> None:
    """The interval lies in [0, 1] and holds the share, also at its ends."""
    samples = right + more
    found = _interval(right / samples if samples else 0.0, samples)
    if not samples:
        assert found == {}
        return
    low, high = (float(found["confidenceInterval"][name]) for name in ("lowerBound", "upperBound"))
    assert 0 <= low <= round(right / samples, 6) + 1e-6
    assert round(right / samples, 6) - 1e-6 <= high <= 1
