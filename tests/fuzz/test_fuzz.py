"""Parsers and validators under a fuzzer; and, in every run of the tests, under its seeds."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
SECONDS = 60
NAMES = (
    "onnx_file", "archive", "manifest", "record", "weights", "npz", "signatures", "recipe", "profile", "edits",
    "answer", "checkpoint", "study", "campaign", "device_arrays", "document",
)  # fmt: skip


def _harnesses() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_harnesses", HERE / "harnesses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def harnesses() -> ModuleType:
    return _harnesses()


def test_every_harness_is_fuzzed(harnesses: ModuleType) -> None:
    """The list of this file is that of the harnesses, and each has seeds."""
    assert set(NAMES) == set(harnesses.HARNESSES)
    assert all(len(harnesses.seeds(name)) > 5 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_their_neighbours_end_in_answers(name: str, harnesses: ModuleType) -> None:
    """Promise S5: good and hostile inputs, cut and flipped, end in an answer or in three lines."""
    dice = random.Random(0)
    for seed in harnesses.seeds(name):
        harnesses.run(name, seed)
        for _ in range(12):
            data = bytearray(seed)
            for _ in range(dice.randint(1, 3)):
                if data:
                    data[dice.randrange(len(data))] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
            harnesses.run(name, bytes(data[: dice.randint(0, len(data))] if dice.random() < 0.3 else data))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    """Promise S5: a minute of coverage-guided fuzzing of each finds no crash, no hang and no foreign exception."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (it has no wheel for this Python): parsers are NOT fuzzed here")
    done = subprocess.run(
        [sys.executable, HERE / "fuzz.py", name, str(SECONDS), tmp_path],
        capture_output=True, check=False, timeout=SECONDS + 400,
    )  # fmt: skip
    said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    found = [
        path.read_bytes()[:200] for path in tmp_path.glob("*-*") if path.name.startswith(("crash", "oom", "timeout"))
    ]
    assert done.returncode == 0, f"{found}\n{said[-4000:]}"
    assert len(list(tmp_path.iterdir())) > 5, "the fuzzer found no new input at all"
