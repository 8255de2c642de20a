"""Fuzzes one harness with coverage as the guide: ``python fuzz.py HARNESS SECONDS CORPUS_FOLDER``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline", "targets", "pickletools", "zipfile", "tomllib"]):
    spec = importlib.util.spec_from_file_location("harnesses", Path(__file__).with_name("harnesses.py"))
    assert spec is not None
    assert spec.loader is not None
    harnesses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harnesses)
    name = sys.argv[1]
    for known in harnesses.seeds(name):  # imports all that the harness needs, instrumented, before it is timed
        harnesses.run(name, known)


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    harnesses.run(name, data)


if __name__ == "__main__":
    corpus = Path(sys.argv[3])
    for number, seed in enumerate(harnesses.seeds(name)):
        (corpus / f"seed{number}").write_bytes(seed)
    limits = [f"-max_total_time={sys.argv[2]}", "-max_len=8192", "-rss_limit_mb=4096", "-timeout=20", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, f"-artifact_prefix={corpus}/"], one_input)
    atheris.Fuzz()
