"""Does int8 compute on arm64 what it computes here? Runs one engine on both and counts the bits that differ.

    python benchmarks/arm64_parity.py BUNDLE [--samples FILE.npz] [--count 1000] [--cpu cortex-a76 ...]

BUNDLE is the folder of a bundle or an engine; the samples are an .npz with its inputs, by default the bundle's golden
ones. arm64 is Python under qemu, made by tests/devices/setup.sh; the other side is this machine, an x86-64 with VNNI.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from targets.ondevice_pack import pack

REPOSITORY = Path(__file__).resolve().parents[1]
CPUS = ("cortex-a72", "cortex-a76", "i8mm")
Arrays = dict[str, np.ndarray]


def main() -> None:
    """Prints one line for each CPU; ends with 1 when a bit differs."""
    parser = argparse.ArgumentParser(description="int8 on arm64 under qemu against this machine, bit by bit")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--cpu", nargs="+", choices=CPUS, default=list(CPUS))
    given = parser.parse_args()
    arm = Path(os.environ.get("EDGEPRESS_TEST_DEVICES") or REPOSITORY / ".devices") / "arm64"
    if not arm.is_dir():
        sys.exit("there is no arm64 Python: run tests/devices/setup.sh arm64")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "ondevice.pyz").write_bytes(pack())
        np.savez(folder / "inputs.npz", **_inputs(given.samples or given.bundle / "golden.npz", given.count))
        here = _outputs(sys.executable, given.bundle.resolve(), folder)
        unlike = sum(
            _compare(cpu, here, _outputs(str(arm / f"python-{cpu}"), given.bundle.resolve(), folder))
            for cpu in given.cpu
        )
    sys.exit(1 if unlike else 0)


def _inputs(path: Path, count: int) -> Arrays:
    """The first ``count`` samples: arrays named like the inputs, or ``input.<name>`` in a bundle's golden file."""
    with np.load(path, allow_pickle=False) as archive:
        golden = [name for name in archive.files if name.startswith("input.")]
        return {name.removeprefix("input."): archive[name][:count] for name in golden or archive.files}


def _outputs(python: str, engine: Path, folder: Path) -> Arrays:
    """Runs the device program's ``infer``; outputs by name, ``(samples, ...)``."""
    out = folder / "outputs.npz"
    argv = [python, "-I", str(folder / "ondevice.pyz"), "infer", str(engine), "--inputs", str(folder / "inputs.npz")]
    done = subprocess.run(
        [*argv, "--out", str(out), "--batch", "16", "--limit-s", "7200"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{python} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    with np.load(out, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    out.unlink()
    return arrays


def _compare(cpu: str, here: Arrays, there: Arrays) -> int:
    """Prints what differs; the number of values that do."""
    values = sum(array.size for array in here.values())
    bits, unlike, samples, worst = 0, 0, set[int](), 0.0
    for name, one in here.items():
        other = there[name]
        same = np.unpackbits(one.view(np.uint8)) == np.unpackbits(other.view(np.uint8))
        bits += int((~same).sum())
        where = (one != other) | (np.signbit(one) != np.signbit(other))
        unlike += int(where.sum())
        samples |= set(np.nonzero(where)[0].tolist())
        worst = max(worst, float(np.abs(one.astype(np.float64) - other).max() / max(np.ptp(one), 1e-30)))
    count = len(next(iter(here.values())))
    print(
        f"{cpu:<12} {count} samples, {values} values: {unlike} values in {len(samples)} samples differ "
        f"({bits} bits), by at most {worst:.2%} of the output's range"
    )
    return unlike


if __name__ == "__main__":
    main()
