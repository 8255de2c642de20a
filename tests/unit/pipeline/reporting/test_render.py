"""The HTML report: complete, inert, well-formed, and the same bytes for the same run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pipeline.reporting.render import render_report, write_report
from targets.errors import InputError

XHTML = "{http://www.w3.org/1999/xhtml}"
HOSTILE = (
    "\N{CJK UNIFIED IDEOGRAPH-5C42}<script>alert(1)</script>\"'>"
    "<img src=x onerror=alert(1)>$\\frac{1}$&amp;{{7*7}}\x1b]0;x\x07"
)
DRAWN = {
    "tradeoff", "latencies", "blocks", "ecdf", "timeline", "loss", "learning", "widths", "times", "histograms",
}  # fmt: skip


def parsed(page: str) -> ET.Element:
    return ET.fromstring(page.removeprefix("<!DOCTYPE html>"))


def words(page: str) -> str:
    return " ".join("".join(parsed(page).itertext()).split())


def test_the_page_says_everything(full_run: dict[str, Any]) -> None:
    """Verdict, cards, tables, plots, quantisation, conditions, warnings with fixes and commands are on the page."""
    page = render_report(full_run)
    shown = words(page)
    for expected in (
        "int8 is 2.0 times faster.", "in budget", "0.200 ms", "[0.196, 0.204]", "2.00\N{MULTIPLICATION SIGN}",
        "[1.94, 2.06]", "98.3 %", "97.8 %", "within the floor", "149 kB", "130 k", "20.1 M", "61.4 MB", "41.2 s",
        "reused", "stage1.conv1", "Softmax", "fused", "relu_1", "entropy", "a CPU", "31.4 dB", "44.0 dB", "39.0 dB",
        "0.02 %", "33.1 dB", "16\N{MULTIPLICATION SIGN}8\N{MULTIPLICATION SIGN}8", "compute", "171", "fp16",
        "take another engine",
        "int8 ships: 2.00\N{MULTIPLICATION SIGN} faster than fp32, the same accuracy, 100 % of its size.",
        "W-VIRTUAL", "steal 2 %", "Fix: use the device", "edgepress run recipe.toml", "ondevice.pyz verify",
        "max accuracy drop", "0.01", "360 samples", "n = 300, at most 0.3 ms", "need 662, have 300", "70.0 MB",
        "one in 3", "reading and writing", "4000/s",
    ):  # fmt: skip
        assert expected in shown, expected
    assert set(re.findall(r'aria-label="(\w+)"', page)) == DRAWN


def test_what_was_seen_is_a_list_and_a_long_cell_may_wrap(full_run: dict[str, Any]) -> None:
    """Findings of several engines are read one by one, and a range of processes stays in its column."""
    full_run["warnings"] = [{"code": "W-X", "text": "x", "evidence": "int8: 1; fp32: 2", "fix": "y"}]
    full_run["candidates"][0]["p90_note"] = "by process 0.397 to 4.46 ms, n = 2500"
    page = render_report(full_run)
    assert "<li>int8: 1</li><li>fp32: 2</li>" in page
    assert '<span class="long">by process 0.397 to 4.46 ms</span>' in page


def test_not_shown_is_explained_where_it_stands(full_run: dict[str, Any]) -> None:
    """An interval beyond 1 beside "not shown" reads as a contradiction unless the correction is named."""
    said = "neither faster nor slower for certain, after the correction for several comparisons"
    assert said not in words(render_report(full_run))
    compared = next(c["vs_reference"] for c in full_run["candidates"] if c.get("vs_reference"))
    compared["verdict"] = "not shown"
    assert said in words(render_report(full_run))


def test_a_bare_run_renders_without_empty_sections(bare_run: dict[str, Any]) -> None:
    """A run without pruning, curves, candidates or warnings is a short page that says that the budget is not met."""
    page = render_report(bare_run)
    headings = [element.text for element in parsed(page).iter(f"{XHTML}h2")]
    assert headings == ["Conditions", "Use it"]
    assert "The budget is not met (exit code 7)." in words(page)
    assert "<svg" not in page
    assert "Deploy" not in page


OPTIONAL = [
    "stages", "candidates", "curves", "widths", "inspect", "layers", "calibration", "conditions", "warnings",
    "reproduce", "versions", "test", "validation", "budget", "times", "dropped",
]  # fmt: skip


@pytest.mark.parametrize("absent", OPTIONAL)
def test_any_part_may_be_missing(absent: str, full_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every optional part can be left out, and the page stays well-formed and keeps the verdict."""
    if absent not in {"candidates", "curves", "validation", "widths"}:  # the plots do not depend on the others
        monkeypatch.setattr("pipeline.reporting.charts.charts", lambda run: {})
    del full_run[absent]
    assert "int8 is 2.0 times faster." in words(render_report(full_run))


def test_hostile_names_are_shown_literally(full_run: dict[str, Any]) -> None:
    """Markup, template code, math and escape sequences in any text change nothing but the text."""
    clean = parsed(render_report(full_run))

    def poison(value: Any, key: str = "") -> Any:  # noqa: ANN401 - any plain data
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(item, key) for item in value]
        keep = key in {"metric", "reference", "precision"} or not isinstance(value, str)
        return value if keep else HOSTILE + value

    poisoned = poison(full_run)
    poisoned["conditions"][HOSTILE] = HOSTILE
    poisoned["inspect"]["nodes"][HOSTILE] = {HOSTILE: 1}
    poisoned["curves"][HOSTILE] = poisoned["curves"]["train"]
    page = render_report(poisoned)
    tree = parsed(page)
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "{{7*7}}" in words(page)
    tags = {element.tag for element in tree.iter()}
    assert tags <= {element.tag for element in clean.iter()}
    assert not [key for element in tree.iter() for key in element.attrib if key.lower().startswith("on")]


def test_the_page_is_inert_and_alone(full_run: dict[str, Any]) -> None:
    """A content security policy forbids everything but styles; there are no scripts and no remote resources."""
    page = render_report(full_run)
    tree = parsed(page)
    policies = [m.get("content") for m in tree.iter(f"{XHTML}meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for element in tree.iter():
        tag = element.tag.rpartition("}")[2]
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "form", "base", "foreignObject"}
        for key, value in element.attrib.items():
            assert "://" not in value, (tag, key, value)
            if key.rpartition("}")[2] in {"href", "src"}:
                assert value.startswith("#")
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", page)
    assert re.search(r"prefers-color-scheme: dark", page)
    assert re.search(r"@media print", page)


def test_identifiers_are_unique_and_found(full_run: dict[str, Any]) -> None:
    """The plots share the page without sharing identifiers, and every reference inside them resolves."""
    page = render_report(full_run)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_the_same_run_gives_the_same_bytes(full_run: dict[str, Any], tmp_path: Path) -> None:
    """Two processes with different hash seeds, folders and matplotlib settings write the same page."""
    import json

    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\n")
    (tmp_path / "run.json").write_text(json.dumps(full_run))
    code = (
        "import json, sys; from pipeline.reporting.render import render_report; "
        "sys.stdout.write(render_report(json.load(open('run.json'))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True, text=True, encoding="utf-8",
        env={"PYTHONHASHSEED": "7", "HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8", "TZ": "Asia/Tokyo"},
    )  # fmt: skip
    assert result.stdout == render_report(full_run)


def test_both_files_are_written(full_run: dict[str, Any], tmp_path: Path) -> None:
    """run.json and report.html land in the folder; a run that is not valid leaves nothing."""
    run_path, report_path = write_report(full_run, tmp_path)
    assert (run_path, report_path) == (tmp_path / "run.json", tmp_path / "report.html")
    assert report_path.read_text(encoding="utf-8") == render_report(full_run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        write_report({**full_run, "candidates": [{"name": 3}]}, tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_many_candidates_widths_and_one_block(full_run: dict[str, Any]) -> None:
    """Ten candidates, a hundred groups and a single block give a well-formed page, with the plots that make sense."""
    template = full_run["candidates"][0]
    full_run["candidates"] = [{**template, "name": f"candidate {i}", "block_medians_ms": [0.4]} for i in range(10)]
    full_run["widths"] = [{"group": f"g{i}", "before": 8, "after": 4} for i in range(100)]
    page = render_report(full_run)
    assert set(re.findall(r'aria-label="(\w+)"', page)) == DRAWN - {"blocks"}
    assert "800 channels in 100 groups before pruning, 400 after." in words(page)


def test_the_reference_is_not_compared_with_what_it_beat(full_run: dict[str, Any]) -> None:
    """Where the uncompressed candidate ships, no card calls it larger or better than a compressed one."""
    full_run["candidates"].reverse()
    assert full_run["candidates"][0]["shipped"]
    full_run["candidates"][0]["vs_reference"] = None
    cards = render_report(full_run).partition('class="cards"')[2].partition("</section>")[0]
    assert "against" not in cards
