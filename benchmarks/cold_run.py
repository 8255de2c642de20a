"""The main job from an empty cache: wall time, what ships, and what it costs in accuracy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from runs import DIGITS, edgepress


def main() -> None:
    """Prints the figures of one cold run of the digits recipe."""
    with tempfile.TemporaryDirectory() as folder:
        wall_s = edgepress("run", str(DIGITS), "--target", "host", cache=Path(folder, "cache"), cwd=Path(folder))
        run = json.loads(Path(folder, "out", "digits", "host", "run.json").read_text(encoding="utf-8"))
    print(f"cold run {wall_s:.1f} s  (goal 120 s)")
    print(run["verdict"]["sentence"])
    for candidate in run["candidates"]:
        latency = candidate["latency_ms"]
        print(
            f"  {candidate['name']:<12} accuracy {candidate['accuracy']:.4f}  {latency['value'] * 1000:.0f} us "
            f"[{latency['ci95'][0] * 1000:.0f}, {latency['ci95'][1] * 1000:.0f}]  {candidate['size_bytes']:,} bytes"
        )
    shipped = next(candidate for candidate in run["candidates"] if candidate["shipped"])
    drop = run["candidates"][0]["accuracy"] - shipped["accuracy"]
    print(f"ships {shipped['name']}, {drop * 100:.2f} points below dense fp32  (goal: int8, at most 1 point)")


if __name__ == "__main__":
    main()
