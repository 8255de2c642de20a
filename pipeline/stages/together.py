"""A stage in several processes that train together: each runs the whole of it, and the first one's outcome counts.

The processes are children of a limited child (`targets.process`): whatever ends us ends all of them. They find each
other through a file in a private folder and talk over the loopback interface alone.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.stages.plain import from_plain, to_plain
from targets.errors import EdgepressError, EnvironmentFailure, error_from_json
from targets.files import DISK_FAULTS, disk_guard
from targets.memory import is_out_of_memory
from targets.process import Limits, call_limited
from targets.telling import Teller

if TYPE_CHECKING:
    from pipeline.stages.base import Context, Stage

_LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_PRIVATE: Final = {"TMPDIR"}
_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What each process needs; no more than our own classes, and none of the user's code."""

    stage: Stage[Any]
    src: object
    out: Path
    scratch: Path
    state: Path
    unfinished: Path | None


def run_together(stage: Stage[Any], src: object, out: Path, context: Context) -> Mapping[str, Any]:
    """Runs a stage in as many processes as it asks for; its results, as those of `Stage.run`.

    Raises:
        EdgepressError: As raised in one of them, which is named.
        EnvironmentFailure: One of them was killed, or ran out of memory.
        RuntimeError: One of them failed in any other way, which is our own bug.
    """
    job = Job(
        stage=stage, src=src, out=out, scratch=context.scratch, state=context.state, unfinished=context.unfinished
    )
    file = context.scratch / "job.json"
    file.write_text(json.dumps(to_plain(job)), encoding="utf-8")

    def hear(message: Mapping[str, Any]) -> None:
        match message["kind"]:
            case "progress":
                context.progress(message["done"], message["text"], **message["values"])
            case "step":
                done, number, steps, epoch = message["place"]
                context.step(done, number, steps, epoch, message["values"])
            case "warn":
                context.warn(message["text"])

    assert stage.learning is not None
    world = stage.learning.processes
    answer = call_limited(
        "pipeline.stages.together:start_processes",
        {"job": str(file), "processes": world, "path": sys.path},
        limits=Limits(timeout_s=math.inf),
        what=f"stage {stage.name!r} in {world} processes",
        hear=hear,
        cwd=Path.cwd(),
        env={name: value for name, value in os.environ.items() if name not in _PRIVATE} | _LOOPBACK,
    )
    results = answer["results"]
    assert isinstance(results, dict)
    return results


def start_processes(request: Mapping[str, Any]) -> dict[str, Any]:
    """Starts the processes by torch's launcher and waits for them; for `targets.process.call_limited`.

    They are forked: this process has imported libraries, and done nothing with them.

    Args:
        request: ``job`` (file), ``processes``, ``path`` (where modules are found), ``tell``.

    Returns:
        ``{results}`` of the first process.
    """
    sys.path[:] = request["path"]
    from torch.multiprocessing.spawn import ProcessExitedException
    from torch.multiprocessing.spawn import start_processes as fork

    import pipeline.training  # noqa: F401 - once for all of them

    file, world = Path(request["job"]), int(request["processes"])
    arguments = (world, file, Path(request["tell"]))
    running = fork(_one, arguments, nprocs=world, join=False, start_method="fork")  # type: ignore[no-untyped-call]
    try:
        while not running.join(grace_period=_GRACE_S):
            pass
    except ProcessExitedException as error:
        raise _cause(file.parent, [process.exitcode for process in running.processes]) from error
    return {"results": json.loads(_results(file.parent).read_bytes())}


def _one(rank: int, world: int, file: Path, tell: Path) -> None:
    """One of the processes: joins the others, runs the stage, writes down results or what went wrong."""
    job: Job = from_plain(json.loads(file.read_bytes()))
    try:
        with disk_guard("writing a stage's files", only=DISK_FAULTS):
            _work(job, rank, world, tell)
    except EdgepressError as error:
        _fault(file.parent, rank).write_text(json.dumps({"error": error.to_json()}), encoding="utf-8")
        sys.exit(1)
    except Exception:  # noqa: BLE001 - the process border
        _fault(file.parent, rank).write_text(json.dumps({"trace": traceback.format_exc()}), encoding="utf-8")
        sys.exit(1)


def _work(job: Job, rank: int, world: int, tell: Path) -> None:
    from pipeline.data.loaded import LoadedData
    from pipeline.stages.base import Context
    from pipeline.training.hardware import join_others

    own = job.scratch / f"process-{rank}"
    (own / "out").mkdir(parents=True)
    (own / "scratch").mkdir()
    context = Context(
        progress=lambda *_, **__: None,
        warn=lambda _: None,
        scratch=own / "scratch",
        state=job.state,
        data=LoadedData(),
        unfinished=job.unfinished,
    )
    assert job.stage.learning is not None
    join_others(job.scratch / "rendezvous", rank=rank, processes=world, device=job.stage.learning.device)
    if rank != 0:
        job.stage.run(job.src, own / "out", context)
        return
    with Teller(tell) as teller:
        results = job.stage.run(job.src, job.out, _telling(context, teller))
    _results(job.scratch).write_text(json.dumps(dict(results)), encoding="utf-8")


def _telling(context: Context, tell: Teller) -> Context:
    return replace(
        context,
        progress=lambda done, text, /, **values: tell(
            {"kind": "progress", "done": done, "text": text, "values": values}
        ),
        warn=lambda text: tell({"kind": "warn", "text": text}),
        step=lambda *place_and_values: tell(
            {"kind": "step", "place": place_and_values[:-1], "values": dict(place_and_values[-1])}
        ),
    )


def _cause(folder: Path, codes: Sequence[int | None]) -> Exception:
    """The first failure of all: others fail too, once one of them no longer answers."""
    world = len(codes)
    for rank, code in enumerate(codes):
        if code is not None and code < 0 and code != -signal.SIGTERM:  # which is how those left are ended
            return _ended(rank, world, signal.Signals(-code))
    found = {rank: json.loads(path.read_bytes()) for rank in range(world) if (path := _fault(folder, rank)).exists()}
    for rank, fault in found.items():
        if "error" in fault:
            error = error_from_json(fault["error"])
            what = f"{error.what} (in process {rank + 1} of {world})"
            return type(error)(what, error.why, error.fix, faults=error.faults)
    for rank, fault in found.items():
        if is_out_of_memory(fault["trace"].encode()):
            return _out_of_memory(rank, world)
    traces = "\n".join(f"process {rank + 1} of {world}:\n{fault['trace']}" for rank, fault in found.items())
    return RuntimeError(f"{world} processes ended with {list(codes)}\n{traces}")


def _ended(rank: int, world: int, number: signal.Signals) -> EnvironmentFailure:
    if number == signal.SIGKILL:
        return _out_of_memory(rank, world)
    return EnvironmentFailure(
        f"process {rank + 1} of {world} crashed ({number.name})",
        "the code that failed is a native library's, or a signal came from outside",
        "run it again; if it comes again, train in one process (processes = 1) to see whether it is the model's",
    )


def _out_of_memory(rank: int, world: int) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"process {rank + 1} of {world} ran out of memory",
        f"each of the {world} processes holds the data and the model",
        "set processes or batch_size lower, close other programs, or use a machine with more memory",
    )


def _results(folder: Path) -> Path:
    return folder / "results.json"


def _fault(folder: Path, rank: int) -> Path:
    return folder / f"fault-{rank}.json"
