"""A small inference service around a bundle: whatever its engine, with numpy and that engine's runtime only.

    python3 service.py BUNDLE --port 8080
    curl -s localhost:8080/health
    curl -s localhost:8080/infer -d '{"x": [[0.0, ...]]}'

It listens on loopback unless --host says otherwise (as in a container, whose own network keeps others out); put it
behind whatever does TLS and access control where you are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

MAX_REQUEST_BYTES = 16 << 20
PATIENCE_S = 30  # with a client that sends nothing


class Engine:
    """A bundle's engine, opened once; one inference of one sample at a time, as it was measured."""

    def __init__(self, bundle: Path) -> None:
        sys.path.insert(0, str(bundle / "ondevice.pyz"))
        from ondevice.runner import load_runtime, open_runner  # type: ignore[import-not-found]
        from ondevice.session import read_spec  # type: ignore[import-not-found]

        self.spec = read_spec(bundle)
        load_runtime(self.spec)
        self._runner, self._lock = open_runner(bundle, self.spec), Lock()

    def infer(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name, for inputs by name: lists with a first axis of samples."""
        wanted = {item["name"]: item for item in self.spec["inputs"]}
        if rows.keys() != wanted.keys():
            raise ValueError(f"the inputs are {', '.join(wanted)}; got {', '.join(rows) or 'none'}")
        feed = {name: _checked(rows[name], item) for name, item in wanted.items()}
        counts = {len(array) for array in feed.values()}
        if len(counts) != 1 or not (count := counts.pop()):
            raise ValueError("every input needs the same number of samples, at least one")
        with self._lock:
            found = [self._runner.run({name: array[n : n + 1] for name, array in feed.items()}) for n in range(count)]
        names = [item["name"] for item in self.spec["outputs"]]
        return {name: np.concatenate(each).tolist() for name, each in zip(names, zip(*found, strict=True), strict=True)}


def _checked(value: object, item: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The array that an input takes: engines answer to some wrong shapes, and what they say then means nothing."""
    array = np.ascontiguousarray(value, dtype=item["dtype"])
    shape = item["shape"]  # names stand for sizes that are free; the first one is the batch
    fits = array.ndim == len(shape)
    if not fits or any(isinstance(b, int) and a != b for a, b in zip(array.shape[1:], shape[1:], strict=True)):
        raise ValueError(f"input {item['name']} has shape {list(array.shape)}; the engine takes {shape}")
    return array


def server(engine: Engine, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """A server; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S

        def do_GET(self) -> None:
            known = {"engine": engine.spec["engine"], "sha256": engine.spec["sha256"]}
            self._answer(HTTPStatus.OK if self.path == "/health" else HTTPStatus.NOT_FOUND, known)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length") or ""
            size = int(length) if length.isascii() and length.isdigit() else 0
            if self.path != "/infer" or not 0 < size <= MAX_REQUEST_BYTES:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": "POST a JSON object of inputs to /infer"})
                return
            try:
                self._answer(HTTPStatus.OK, engine.infer(json.loads(self.rfile.read(size))))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})

        def _answer(self, status: HTTPStatus, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            del format, arguments  # a line a request is too much for an SD card

    return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
    """Verifies the bundle, then serves it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    subprocess.run([sys.executable, options.bundle / "ondevice.pyz", "verify"], check=True, cwd=options.bundle)
    with server(Engine(options.bundle), options.port, options.host) as serving:
        sys.stdout.write(f"serving {options.bundle} on http://{options.host}:{serving.server_port}\n")
        serving.serve_forever()


if __name__ == "__main__":
    main()
