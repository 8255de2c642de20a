"""Every warning can be explained, and every layer of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.assist.explain import codes, explain_code, explain_layer
from pipeline.reporting.schema import run_report
from targets.errors import UsageError

ROOT = Path(__file__).parents[4]
RUN = run_report(
    {
        "schema": 1,
        "name": "r",
        "target": {"name": "host"},
        "task": {"name": "classification", "metric": "accuracy"},
        "verdict": {"shipped": None, "sentence": "s"},
        "warnings": [{"code": "W-FEW", "text": "few blocks", "evidence": "2 blocks"}],
        "layers": [
            {"name": "body.conv1", "kind": "Conv", "precision": "int8", "snr_db": 33.25},
            {"name": "body.conv2", "kind": "Conv", "precision": "float", "note": "no gain"},
        ],
        "widths": [{"group": "body.conv1", "before": 64, "after": 40}],
    }
)


def test_every_code_in_the_sources_is_explained_and_no_other() -> None:
    """Promise: a user who sees a code finds it; what is explained exists."""
    found = {
        code
        for package in ("pipeline", "calibration", "targets")
        for path in (ROOT / package).rglob("*.py")
        for code in re.findall(r'"([WC]-[A-Z0-9]+(?:-[A-Z0-9]+)*)"', path.read_text(encoding="utf-8"))
    }
    assert found == set(codes())
    assert all(entry["means"] and entry["fix"] for entry in codes().values())


def test_a_code_is_explained_with_what_the_run_saw() -> None:
    """Promise: meaning, remedy and evidence stand together."""
    found = explain_code("W-FEW", RUN)
    assert found.seen == ("few blocks (2 blocks)",)
    assert "budget_s" in found.fix
    with pytest.raises(UsageError, match="W-FEW"):
        explain_code("W-FWE")


def test_a_layer_is_found_by_its_path_and_by_that_of_its_parent() -> None:
    """Promise: module paths of the user name layers; near names help when there is none."""
    (facts,) = explain_layer("body.conv1", RUN)
    assert facts["output SNR"].startswith("33.2")
    assert facts["channels of body.conv1"] == "64 before pruning, 40 after"
    assert [found["layer"] for found in explain_layer("body", RUN)] == ["body.conv1", "body.conv2"]
    with pytest.raises(UsageError, match=r"body\.conv1"):
        explain_layer("body.cnov1", RUN)
