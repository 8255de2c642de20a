"""A pipeline of two tiny stages on a store, to be killed: ``python publisher.py ROOT LOG``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipeline.store import Store, make_key
from targets.errors import EdgepressError


def run(root: Path, log: Path, *, size_bytes: int = 3000) -> dict[str, str]:
    """The digest of each stage; each execution of a stage appends its name to ``log``."""
    store, digests = Store(root), {}
    with store.session():
        source = "start"
        for stage in ("export", "quantize"):
            key = make_key({"stage": stage, "source": source})
            with store.lock(key):
                entry = store.reuse(key)
                if entry is None:
                    with store.scratch() as folder:
                        (folder / "model.bin").write_bytes(stage.encode() * size_bytes)
                        (folder / "deep").mkdir()
                        (folder / "deep" / "io.json").write_text(json.dumps({"source": source}))
                        entry = store.publish(folder, key, stage=stage, meta={"ratio": 0.5})
                    with log.open("a") as file:
                        file.write(f"{stage}\n")
            digests[stage] = source = entry.digest
    return digests


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    try:
        size = int(os.environ.get("SIZE_BYTES", "3000"))
        sys.stdout.write(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), size_bytes=size)))
    except EdgepressError as error:
        sys.stdout.write(json.dumps(error.to_json()))
        sys.exit(error.exit_code)
