"""Calibration of MobileNetV2 224 x 224: time against raw inference, and peak memory, beside ONNX Runtime's calibrators.

Each row runs in a process of its own; the rows of a round run one after the other, and rounds repeat, so that ratios
compare neighbours in time. Times are CPU seconds of the process (one thread), medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = ("sampled", "all")
PEERS = ("MinMax", "Percentile", "Entropy")
PEER_SAMPLES = {"MinMax": 100, "Percentile": 16, "Entropy": 16}  # the last two keep every activation


def main() -> None:
    """Prints one table for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--row", nargs=3, metavar=("FOLDER", "ROW", "SAMPLES"), help="one row, in this process")
    arguments = parser.parse_args()
    if arguments.row:
        folder, row, count = arguments.row
        print(json.dumps(_measure(Path(folder), row, int(count))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", _WRITE, str(folder)], check=True, cwd=Path(__file__).parent)
        for count in arguments.samples:
            _table(folder, count, arguments.rounds, peers=arguments.peers and count == 100)


_WRITE = "import sys, pathlib, mobilenet; mobilenet.write_mobilenet(pathlib.Path(sys.argv[1], 'm.onnx'))"


def _table(folder: Path, count: int, rounds: int, *, peers: bool) -> None:
    rows = [("raw", count), *((mode, count) for mode in OURS)]
    if peers:
        rows += [(peer, min(count, PEER_SAMPLES[peer])) for peer in PEERS]
    found: dict[str, list[dict[str, float]]] = {row: [] for row, _ in rows}
    for _ in range(rounds):
        for row, number in rows:
            command = [sys.executable, __file__, "--row", str(folder), row, str(number)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[row].append(json.loads(done.stdout.splitlines()[-1]))
    raw_ms = statistics.median(one["cpu_ms"] for one in found["raw"])
    raw_mb = statistics.median(one["peak_mb"] for one in found["raw"])
    print(f"\n{count} samples, {rounds} rounds\n| what | samples | CPU ms a sample | x raw | peak MB | over raw |")
    print("|---|---|---|---|---|---|")
    for row, number in rows:
        cpu_ms = statistics.median(one["cpu_ms"] for one in found[row])
        ratios = [one["cpu_ms"] / raw["cpu_ms"] for one, raw in zip(found[row], found["raw"], strict=True)]
        peak_mb = statistics.median(one["peak_mb"] for one in found[row])
        title = {"raw": "raw inference", "sampled": "edgepress, five observers", "all": "the same, all values"}
        name = title.get(row, f"ONNX Runtime {row}")
        ratio, over = statistics.median(ratios), peak_mb - raw_mb
        print(f"| {name} | {number} | {cpu_ms:.1f} | {ratio:.2f} | {peak_mb:.0f} | {over:+.0f} |")
    print(f"raw inference: {raw_ms:.1f} ms CPU a sample, batch 1, every optimisation")


def _measure(folder: Path, row: str, count: int) -> dict[str, float]:
    work = _raw if row == "raw" else _peer if row in PEERS else _ours
    run = work(folder, row, count)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak starts here
    started_s = time.process_time()
    run()
    cpu_s = time.process_time() - started_s
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    peak_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"cpu_ms": cpu_s * 1e3 / count, "peak_mb": peak_kb / 1024}


def _images(count: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.standard_normal((1, 3, 224, 224), dtype=np.float32)}


def _raw(folder: Path, _row: str, count: int) -> Callable[[], None]:
    from calibration.session import Session

    samples = _samples(folder, count).in_batches(1)

    def run() -> None:
        session = Session((folder / "m.onnx").read_bytes(), threads=1, optimize=True)
        for batch in samples:
            session.run(None, batch)

    return run


def _ours(folder: Path, row: str, count: int) -> Callable[[], None]:
    from calibration.collect import collect

    samples = _samples(folder, count)
    every = "all" if row == "all" else "sampled"
    return lambda: collect(folder / "m.onnx", samples, threads=1, every=every).ranges("entropy")


def _samples(folder: Path, count: int) -> object:
    from calibration.samples import CalibrationSet

    place = folder / f"samples{count}"
    if not place.exists():
        CalibrationSet.from_batches(_images(count), place, batch_size=32)
    return CalibrationSet.load(place, batch_size=32)


def _peer(folder: Path, row: str, count: int) -> Callable[[], None]:
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        """Feeds one image at a time."""

        def __init__(self) -> None:
            self._batches = _images(count)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next batch, None at the end."""
            return next(self._batches, None)

    def run() -> None:
        augmented = str(folder / f"augmented_{row}.onnx")
        method = getattr(CalibrationMethod, row)
        calibrator = create_calibrator(str(folder / "m.onnx"), None, augmented, method)
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(Reader())
        calibrator.compute_data()

    return run


if __name__ == "__main__":
    main()
