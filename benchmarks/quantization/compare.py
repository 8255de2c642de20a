"""int8 of this project beside ONNX Runtime's, NNCF's and Model-Optimizer's: same net, same samples, same runtime.

    compare.py NET... --peers FOLDER [--work FOLDER] [--samples 512] [--time-budget-s 300] [--target-snr-db 45]

NET is a folder with ``model.onnx``, ``calibration.npz`` (arrays named like the inputs) and ``test.npz`` (the same, and
``labels``). Peers run in the environments that `peers.sh` made in FOLDER. All files are run by the ONNX Runtime of this
environment, fully optimised, one thread.

Everything is compared in pairs. Top-1: on the same samples, against the float model and by each peer against ours, with
the 95 % interval of the paired difference (normal, in points). Latency: of one sample, interleaved in shuffled rounds,
as ratio of a round; its interval is a bootstrap's over blocks of ten rounds, as neighbours are disturbed together. The
last line says of each peer whether ours is faster, slower, or equal within 2 %; the fastest peer's decides.

With ``--work`` what was made stays there, and a second call makes only what is missing and measures again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
ROUNDS = 200
BLOCK = 10
SAME = 0.02
ANSWERED_BATCH = 100
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model on one net; ``ours_above`` and ``ours_over`` are our top-1 less its, our latency over its."""

    name: str
    made_s: float
    snr_db: float
    agreement: float
    top1: float
    difference: Interval
    ours_above: Interval
    latency_ratio: Interval
    latency_us: float
    ours_over: Interval


def main() -> None:
    """Prints one table a net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", type=Path)
    parser.add_argument("--peers", type=Path, help="folder of peers.sh; without it, only this project")
    parser.add_argument("--only", nargs="*", default=[*PEERS], choices=[*PEERS], help="these peers only")
    parser.add_argument("--work", type=Path, help="folder that keeps what was made")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--test-samples", type=int, default=10_000)
    parser.add_argument("--scheme", default="ort-x86")
    parser.add_argument("--time-budget-s", type=float, default=300.0)
    parser.add_argument("--target-snr-db", type=float, default=45.0, help="what is enough for ours; recipes say 40")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    for net in asked.nets:
        with working(asked.work, net.name) as folder:
            compare(net, folder, asked)


@contextmanager
def working(kept: Path | None, net: str) -> Iterator[Path]:
    """A folder that stays, or one for this time."""
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    (kept / net).mkdir(parents=True, exist_ok=True)
    yield kept / net


def compare(net: Path, folder: Path, asked: argparse.Namespace) -> None:
    """Makes all models of one net, and measures them."""
    samples = first(read(net / "calibration.npz"), asked.samples, spread=True)
    test = first(read(net / "test.npz"), asked.test_samples)
    labels = test.pop("labels")
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]
    files, seconds = {"float": net / "model.onnx"}, {"float": 0.0}
    for name in ("edgepress", *(asked.only if asked.peers else ())):
        out = folder / f"{name}.onnx"
        took = folder / f"{name}.seconds"
        if not took.exists():
            begin = time.monotonic()
            if name == "edgepress":
                ours(net, folder, out, asked)
            elif not peer(name, net, folder, out, asked):
                continue
            took.write_text(f"{time.monotonic() - begin:.1f}", encoding="utf-8")
        files[name], seconds[name] = out, float(took.read_text(encoding="utf-8"))
    show(net.name, rows(files, seconds, test, labels, asked.rounds), len(labels))


def peer(method: str, net: Path, folder: Path, out: Path, asked: argparse.Namespace) -> bool:
    """Has a peer make its file, in its own environment."""
    python = asked.peers / PEERS[method] / "bin" / "python"
    script = Path(__file__).with_name("peer.py")
    command = [python, script, method, net / "model.onnx", folder / "samples.npz", out, asked.scheme]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        print(f"{net.name}: {method} failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1][:200]}")
        return False
    return True


def ours(net: Path, folder: Path, out: Path, asked: argparse.Namespace) -> None:
    """The file that `auto` chooses; what it tried is printed."""
    (own := folder / "edgepress").mkdir(exist_ok=True)
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
            "target_snr_db": asked.target_snr_db,
            "out_folder": str(own),
        }
    )
    for tried in found["tried"]:
        snr = "" if tried["snr_db"] is None else f"{tried['snr_db']:.2f} dB"
        print(f"  {tried['step']:<15} {snr:>9}  {'kept' if tried['kept'] else tried['reason']}", flush=True)
    out.write_bytes((own / "model.onnx").read_bytes())


def rows(
    files: dict[str, Path], seconds: dict[str, float], test: Arrays, labels: NDArray[Any], rounds: int
) -> list[Row]:
    """Answers first, then latencies, all models in each round."""
    sessions = {name: Session(path, threads=1, optimize=True) for name, path in files.items()}
    answers = {name: answer(session, test) for name, session in sessions.items()}
    times = latencies(sessions, {name: array[:1] for name, array in test.items()}, rounds)
    exact = answers["float"].astype(np.float64)
    right = {name: (array.argmax(-1) == labels).astype(int) for name, array in answers.items()}
    found = []
    for name, array in answers.items():
        noise = float(np.sum((array - exact) ** 2))
        found.append(
            Row(
                name=name,
                made_s=seconds[name],
                snr_db=10 * np.log10(float(np.sum(exact**2)) / noise) if noise else float("inf"),
                agreement=float((array.argmax(-1) == exact.argmax(-1)).mean()),
                top1=float(right[name].mean()),
                difference=paired_points(right[name] - right["float"]),
                ours_above=paired_points(right["edgepress"] - right[name]),
                latency_ratio=paired_ratio(times[name] / times["float"]),
                latency_us=float(np.median(times[name])) * 1e6,
                ours_over=paired_ratio(times["edgepress"] / times[name]),
            )
        )
    return found


def paired_points(change: NDArray[Any]) -> Interval:
    """The mean of -1, 0 and 1 over samples, in points."""
    mean, half = 100 * float(change.mean()), 196 * float(change.std(ddof=1) / np.sqrt(len(change)))
    return Interval(value=mean, low=mean - half, high=mean + half)


def paired_ratio(ratios: NDArray[np.float64]) -> Interval:
    """The median over rounds; its interval by a bootstrap over blocks of rounds."""
    random = np.random.default_rng(0)
    blocks = ratios[: len(ratios) // BLOCK * BLOCK].reshape(-1, BLOCK)
    drawn = random.integers(0, len(blocks), (2000, len(blocks)))
    medians = np.median(blocks[drawn].reshape(2000, -1), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Interval(value=float(np.median(ratios)), low=float(low), high=float(high))


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
    """The table, and what it says."""
    print(f"\n{net}, {count} test samples\n")
    columns = "output SNR | agreement | top-1 | against float, points | latency / float | made in"
    print(f"| | {columns} | ours less its top-1 | ours / its latency |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in found:
        answers = f"{row.snr_db:.2f} dB | {row.agreement:.4f} | {row.top1:.4f} | {told(row.difference, '+.2f')}"
        against = f"{told(row.ours_above, '+.2f')} | {told(row.ours_over, '.3f')}"
        latency = f"{told(row.latency_ratio, '.3f')} | {row.made_s:.0f} s"
        print(f"| {row.name} | {answers} | {latency} | {against} |", flush=True)
    peers = [row for row in found if row.name not in {"float", "edgepress"}]
    for row in sorted(peers, key=lambda row: row.latency_us):
        accuracy = "worse" if row.ours_above.high < 0 else "better" if row.ours_above.low > 0 else "within noise"
        print(f"against {row.name}: top-1 {accuracy}, {speed(row.ours_over)} ({row.latency_us:.1f} us)")


def speed(ratio: Interval) -> str:
    """What the interval allows to say."""
    if ratio.high < 1:
        return "faster"
    if ratio.low > 1:
        return "slower" if ratio.low > 1 + SAME else "slower by little"
    return "equal" if ratio.high <= 1 + SAME else "not shown"


def told(interval: Interval, spec: str) -> str:
    """With its interval."""
    return f"{interval.value:{spec}} [{interval.low:{spec}}, {interval.high:{spec}}]"


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
