"""Promises of the pages as a browser shows them: silent, alone, readable at 400 pixels, light, dark and printed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.reporting.render import render_comparison, render_report
from pipeline.reporting.search_page import render_search

if TYPE_CHECKING:
    from types import ModuleType


def _beside(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browser = _beside("edgepress_test_browser", Path(__file__).parents[1] / "browser.py")
pytestmark = pytest.mark.skipif(
    browser.chromium() is None, reason="NO BROWSER: the pages were not opened; apt-get install chromium"
)

PROBE = """(() => {
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  const lum = c => { const v = c.map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const rgb = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > .99) return c.slice(0, 3); } return [255, 255, 255]; };
  const small = [], faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.getClientRects().length) continue;
    seen += 1;
    const style = getComputedStyle(e), svg = e.closest("svg");
    let size = parseFloat(style.fontSize);
    if (svg) size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < 11.9) small.push([text.slice(0, 40), size]);
    const ink = rgb(svg ? style.fill : style.color), ground = behind(e);
    const [a, b] = [lum(ink), lum(ground)].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) faint.push([text.slice(0, 40), ink, ground]);
  }
  return {seen, small, faint, width: document.documentElement.scrollWidth, view: window.innerWidth,
          scripts: document.scripts.length, plots: document.querySelectorAll("svg").length};
})()"""

HOSTILE = (
    "<script>fetch('https://x.example/')</script>",
    '"><img src="https://x.example/a.png" onerror="alert(1)"/>',
    "</style><link rel=stylesheet href=//x.example/s.css>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "\x1b[31m\x07\x00\u202e reversed",
    "a" * 300,
    "$\\frac{1}{2}$ &amp; &#60;b&#62;",
)


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    unit = _beside("edgepress_test_runs", Path(__file__).parents[1] / "unit/pipeline/reporting/conftest.py")
    full: dict[str, Any] = json.loads(json.dumps(unit._FULL))
    wild = json.loads(json.dumps(full))
    wild["name"], wild["target"]["description"] = HOSTILE[0], HOSTILE[1]
    for index, candidate in enumerate(wild["candidates"]):
        candidate["name"], candidate["reasons"] = f"{HOSTILE[index]}{index}", [HOSTILE[1]]
    wild["verdict"] |= {"shipped": wild["candidates"][1]["name"], "sentence": HOSTILE[2], "met_budget": False}
    wild["layers"] = [full["layers"][0] | {"name": name, "note": name} for name in HOSTILE]
    wild["widths"] = [{"group": name, "before": 9, "after": 4} for name in HOSTILE]
    wild["calibration"] = [full["calibration"][0] | {"tensor": name} for name in HOSTILE]
    wild["times"]["rows"] = [full["times"]["rows"][0] | {"module": name, "node": name} for name in HOSTILE]
    wild["conditions"] = {name[:60]: name for name in HOSTILE}
    wild["warnings"] = [{"code": "W-X", "text": name, "evidence": f"{name}; {name}", "fix": name} for name in HOSTILE]
    wild["reproduce"] = [HOSTILE[0]]
    many = json.loads(json.dumps(full))
    many["candidates"] = [full["candidates"][0] | {"name": f"openvino-candidate-{i}"} for i in range(9)]
    many["candidates"].append(full["candidates"][1])
    many["widths"] = [{"group": f"stage{i}.conv", "before": 64, "after": 40} for i in range(90)]
    bare = {
        "schema": 1, "name": "bare", "target": {"name": "pi"}, "task": {"name": "fidelity", "metric": "agreement"},
        "verdict": {"shipped": None, "sentence": "Nothing meets the budget.", "met_budget": False, "exit_code": 7},
    }  # fmt: skip
    return {"full": full, "hostile": wild, "many": many, "bare": bare}


LOOKS = [
    pytest.param(width, scheme, media, id=f"{media}-{scheme}-{width}")
    for width, scheme, media in (
        (400, "light", "screen"), (400, "dark", "screen"), (1200, "light", "screen"), (1200, "dark", "screen"),
        (700, "dark", "print"),
    )
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme", "media"), LOOKS)
@pytest.mark.parametrize("name", ["full", "hostile", "many", "bare"])
def test_the_report_is_silent_alone_and_readable(
    runs: dict[str, dict[str, Any]], name: str, width: int, scheme: str, media: str, tmp_path: Path
) -> None:
    """Promise R17: no request, no script, no complaint, nothing wider than the page, no text too small or too faint."""
    path = tmp_path / "report.html"
    path.write_text(render_report(runs[name]), encoding="utf-8")
    _judge(path, tmp_path, width, scheme, media)


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme", "media"), LOOKS)
@pytest.mark.parametrize("name", ["comparison", "search"])
def test_the_other_pages_are_too(
    runs: dict[str, dict[str, Any]], name: str, width: int, scheme: str, media: str, tmp_path: Path
) -> None:
    """Two runs side by side and a search: the same promises, names of strangers included."""
    path = tmp_path / f"{name}.html"
    page = render_comparison(runs["hostile"], runs["full"]) if name == "comparison" else render_search(_searched())
    path.write_text(page, encoding="utf-8")
    _judge(path, tmp_path, width, scheme, media)


def _searched() -> dict[str, Any]:
    trials = [
        {
            "number": number, "point": {"prune.ratio": 0.1 * number, HOSTILE[number % len(HOSTILE)][:80]: HOSTILE[0]},
            "engine": {"name": HOSTILE[1] if number else "int8", "latency_ms": 2.0 - 0.1 * number, "size_bytes": 10**5,
                       "latency_ratio": 0.9 - 0.05 * number, "accuracy_drop": 0.01 * number, "memory_bytes": 10**7},
            "feasible": number < 3, "excesses": [] if number < 3 else [HOSTILE[2]],
            "confirmed": {"met_budget": True} if number == 2 else None,
        }
        for number in range(9)
    ]  # fmt: skip
    return {
        "recipe": HOSTILE[0], "target": "host", "trials": trials, "front": [0, 2, 5], "best": 2, "met_budget": True,
        "given_up": [{"number": 9, "point": {"prune.ratio": 0.9}, "failed": True, "reason": HOSTILE[1]}],
        "trials_asked": 20, "binding": [], "objectives": ["latency", "accuracy"],
        "best_settings": ["prune.ratio=0.2", HOSTILE[0]],
    }  # fmt: skip


def _judge(path: Path, tmp_path: Path, width: int, scheme: str, media: str) -> dict[str, Any]:
    with browser.Page(tmp_path / "profile", width=width, scheme=scheme, media=media) as page:
        page.open(path)
        found: dict[str, Any] = page.ask(PROBE)
        assert page.requests() == [path.absolute().as_uri()]
        assert page.complaints() == []
    assert found["view"] == found["width"] == width
    assert (found["scripts"], found["small"], found["faint"]) == (0, [], [])
    assert found["seen"] > 5
    return found


@pytest.mark.long
def test_the_probe_sees_what_it_looks_for(tmp_path: Path) -> None:
    """A page with every fault is caught in each: a request, a complaint, a wide box, small and faint text."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><body style='background:#fff'>"
        "<script>console.error('x')</script><img src='missing.png'><p style='width:2000px'>wide</p>"
        "<p style='font-size:8px'>small</p><p style='color:#ccc'>faint</p>",
        encoding="utf-8",
    )
    with browser.Page(tmp_path / "profile", width=400) as page:
        page.open(path)
        found = page.ask(PROBE)
        assert len(page.requests()) > 1
        assert page.complaints()
    assert found["width"] > 400
    assert [text for text, _ in found["small"]] == ["small"]
    assert [row[0] for row in found["faint"]] == ["faint"]
