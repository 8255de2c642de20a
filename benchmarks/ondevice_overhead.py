"""What the device program's timed loop adds to a call: a model that does nothing, against a bare loop around it.

Both run interleaved in one process, in several fresh processes; the goal is less than 2 microseconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from targets.engines import engine
from targets.ondevice.runner import Bound, open_runner
from targets.ondevice.session import import_runtime, open_session, read_spec
from targets.ondevice.timing import timed_loop
from targets.profile import load_profile

PROCESSES = 5
ROUNDS = 60
CALLS = 500
BATCH = 20  # calls of the bare loop between two looks at the clock
MODEL = '<ir_version: 10, opset_import: ["" : 18]> noop (float[1] x) => (float[1] y) { y = Identity(x) }'


def main() -> None:
    """Prints the difference of each process and the median of all, in microseconds."""
    if len(sys.argv) > 1:
        print(json.dumps(one_process(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(onnx.parser.parse_model(MODEL), f"{folder}/noop.onnx")
        engine("onnxruntime").build(
            Path(folder, "noop.onnx"), load_profile("host"), Path(folder, "engine"), precision="fp32"
        )
        rows = []
        for number in range(PROCESSES):
            command = [sys.executable, __file__, f"{folder}/engine"]
            row = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            rows.append(row)
            print(
                "process {}: program {program_us:.3f} us, bare loop {bare_us:.3f} us, "
                "difference {single_us:+.3f} us ({batched_us:+.3f} us in batches of calls)".format(number + 1, **row)
            )
    worst = max((row["single_us"] for row in rows), key=abs)
    middle = statistics.median(row["single_us"] for row in rows)
    print(f"difference: median {middle:+.3f} us, farthest {worst:+.3f} us  (goal within 2 us)")


def one_process(folder: Path) -> dict[str, float]:
    """Medians over interleaved rounds, in microseconds a call.

    ``single_us`` is the program with one call a sample against the bare loop, ``batched_us`` the same with the inner
    loop that the program takes by itself for calls as short as this.
    """
    spec = read_spec(folder)
    runner = open_runner(folder, spec)
    feed = {"x": np.ones(1, np.float32)}
    bound = runner.bind([feed], runner.run(feed))
    session = open_session(folder, spec)
    binding = session.io_binding()
    binding.bind_cpu_input("x", feed["x"])
    binding.bind_ortvalue_output("y", import_runtime().OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32)))
    run = session.run_with_iobinding
    program(bound, expected_ns=1e9)
    found: dict[str, list[float]] = {"single": [], "batched": [], "bare": []}
    for number in range(ROUNDS):
        steps = [
            ("single", lambda: program(bound, expected_ns=1e9)),
            ("bare", lambda: bare(run, binding)),
            ("batched", lambda: program(bound, expected_ns=found["bare"][-1] if found["bare"] else 5000.0)),
        ]
        for name, step in steps if number % 2 else reversed(steps):
            found[name].append(step())
    medians = {name: statistics.median(values) / 1000 for name, values in found.items()}
    return {
        "program_us": medians["single"],
        "bare_us": medians["bare"],
        "single_us": medians["single"] - medians["bare"],
        "batched_us": medians["batched"] - medians["bare"],
    }


def program(bound: Bound, *, expected_ns: float) -> float:
    """The median that the program's own loop reports, in nanoseconds."""
    count = CALLS if expected_ns > 1e6 else 5
    report = timed_loop(bound.call, expected_ns=expected_ns, min_iterations=count, min_s=0, cap_s=1)
    return float(report["median_ns"])


def bare(run: Callable[[object], None], binding: object) -> float:
    """Nothing but the runtime's bound call, in nanoseconds: the median over batches, as others share this machine."""
    clock, samples = time.perf_counter_ns, []
    for _ in range(CALLS // BATCH):
        begin = clock()
        for _ in range(BATCH):
            run(binding)
        samples.append((clock() - begin) / BATCH)
    return statistics.median(samples)


if __name__ == "__main__":
    main()
