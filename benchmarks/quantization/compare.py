"""int8 of this project beside ONNX Runtime's, NNCF's and Model-Optimizer's: same net, same samples, same runtime.

    compare.py NET... --peers FOLDER [--samples 512] [--time-budget-s 300]

NET is a folder with ``model.onnx``, ``calibration.npz`` (arrays named like the inputs) and ``test.npz`` (the same, and
``labels``). Peers run in the environments that `peers.sh` made in FOLDER. All files are run by the ONNX Runtime of this
environment, fully optimised, one thread. Top-1 is compared on the same samples: its difference to the float model is
given with the standard error of the paired difference. Latencies are of one sample, interleaved in shuffled rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
from numpy.typing import NDArray

from calibration.child import quantize_in_child
from calibration.session import Session

PEERS = {
    "ort-minmax": "nncf",
    "ort-percentile": "nncf",
    "ort-entropy": "nncf",
    "nncf": "nncf",
    "nncf-fbc": "nncf",
    "modelopt-max": "modelopt",
    "modelopt-entropy": "modelopt",
}
ROUNDS = 100
ANSWERED_BATCH = 100
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model on one net."""

    name: str
    made_s: float
    snr_db: float
    agreement: float
    top1: float
    difference: float
    error: float
    latency_ratio: float
    spread: tuple[float, float]


def main() -> None:
    """Prints one table a net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", type=Path)
    parser.add_argument("--peers", type=Path, help="folder of peers.sh; without it, only this project")
    parser.add_argument("--only", nargs="*", default=[*PEERS], choices=[*PEERS], help="these peers only")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--test-samples", type=int, default=10_000)
    parser.add_argument("--scheme", default="ort-x86")
    parser.add_argument("--time-budget-s", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    for net in asked.nets:
        with tempfile.TemporaryDirectory() as folder:
            compare(net, Path(folder), asked)


def compare(net: Path, folder: Path, asked: argparse.Namespace) -> None:
    """Makes all models of one net, and measures them."""
    samples = first(read(net / "calibration.npz"), asked.samples, spread=True)
    test = first(read(net / "test.npz"), asked.test_samples)
    labels = test.pop("labels")
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]
    files, seconds = {"float": net / "model.onnx"}, {"float": 0.0}
    begin = time.monotonic()
    files["edgepress"] = ours(net, folder, asked)
    seconds["edgepress"] = time.monotonic() - begin
    for method in asked.only if asked.peers else ():
        out, begin = folder / f"{method}.onnx", time.monotonic()
        python = asked.peers / PEERS[method] / "bin" / "python"
        command = [python, Path(__file__).with_name("peer.py"), method, net / "model.onnx", folder / "samples.npz", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            print(f"{net.name}: {method} failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1][:200]}")
            continue
        files[method], seconds[method] = out, time.monotonic() - begin
    show(net.name, rows(files, seconds, test, labels, asked.rounds), len(labels))


def ours(net: Path, folder: Path, asked: argparse.Namespace) -> Path:
    """The file that `auto` chooses; what it tried is printed."""
    (out := folder / "edgepress").mkdir()
    found: dict[str, Any] = quantize_in_child(
        {
            "model": str(net / "model.onnx"),
            "samples": str(folder / "samples.npz"),
            "scheme": asked.scheme,
            "method": "auto",
            "algorithms": "auto",
            "threads": 1,
            "batch_size": 32,
            "time_budget_s": asked.time_budget_s,
            "out_folder": str(out),
        }
    )
    for tried in found["tried"]:
        snr = "" if tried["snr_db"] is None else f"{tried['snr_db']:.2f} dB"
        print(f"  {tried['step']:<15} {snr:>9}  {'kept' if tried['kept'] else tried['reason']}")
    return out / "model.onnx"


def rows(
    files: dict[str, Path], seconds: dict[str, float], test: Arrays, labels: NDArray[Any], rounds: int
) -> list[Row]:
    """Answers first, then latencies, all models in each round."""
    sessions = {name: Session(path, threads=1, optimize=True) for name, path in files.items()}
    answers = {name: answer(session, test) for name, session in sessions.items()}
    times = latencies(sessions, {name: array[:1] for name, array in test.items()}, rounds)
    exact = answers["float"].astype(np.float64)
    right = exact.argmax(-1) == labels
    found = []
    for name, array in answers.items():
        noise = float(np.sum((array - exact) ** 2))
        change = (array.argmax(-1) == labels).astype(int) - right.astype(int)
        ratios = times[name] / times["float"]
        found.append(
            Row(
                name=name,
                made_s=seconds[name],
                snr_db=10 * np.log10(float(np.sum(exact**2)) / noise) if noise else float("inf"),
                agreement=float((array.argmax(-1) == exact.argmax(-1)).mean()),
                top1=float((array.argmax(-1) == labels).mean()),
                difference=float(change.mean()),
                error=float(change.std(ddof=1) / np.sqrt(len(change))),
                latency_ratio=float(np.median(ratios)),
                spread=(float(np.quantile(ratios, 0.25)), float(np.quantile(ratios, 0.75))),
            )
        )
    return found


def answer(session: Session, test: Arrays) -> NDArray[Any]:
    """The first output of all samples."""
    count = len(next(iter(test.values())))
    parts = [
        session.run(None, {name: array[i : i + ANSWERED_BATCH] for name, array in test.items()})[0]
        for i in range(0, count, ANSWERED_BATCH)
    ]
    return np.concatenate(parts)


def latencies(sessions: dict[str, Session], feed: Arrays, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of one inference, the best of ten, in each round."""
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name in random.permutation([*sessions]).tolist():
            session, best = sessions[name], float("inf")
            session.run(None, feed)
            for _ in range(10):
                begin = time.perf_counter()
                session.run(None, feed)
                best = min(best, time.perf_counter() - begin)
            found[name].append(best)
    return {name: np.array(values) for name, values in found.items()}


def show(net: str, found: list[Row], count: int) -> None:
    """The table."""
    print(f"\n{net}, {count} test samples\n")
    print("| | output SNR | agreement | top-1 | against float | latency / float (quartiles) | made in |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in found:
        points, error = 100 * row.difference, 100 * row.error
        spread = f"{row.spread[0]:.2f} to {row.spread[1]:.2f}"
        answers = f"{row.snr_db:.2f} dB | {row.agreement:.4f} | {row.top1:.4f} | {points:+.2f} ± {error:.2f} points"
        print(f"| {row.name} | {answers} | {row.latency_ratio:.2f} ({spread}) | {row.made_s:.0f} s |", flush=True)


def read(path: Path) -> Arrays:
    """All arrays of an .npz."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def first(arrays: Arrays, count: int, *, spread: bool = False) -> Arrays:
    """At most ``count`` samples: the first, or evenly spread ones."""
    total = len(next(iter(arrays.values())))
    chosen = np.linspace(0, total - 1, min(count, total)).astype(np.int64) if spread else np.arange(min(count, total))
    return {name: array[chosen] for name, array in arrays.items()}


if __name__ == "__main__":
    main()
