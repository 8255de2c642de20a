"""``layers``: where the time of one inference goes, in the user's module names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import epilog, print_json, progress_options
from pipeline.cli.parameters import DEVICE, ExistingPath
from pipeline.cli.waiting import waiting

if TYPE_CHECKING:
    from rich.table import Table

_TOP_LEVEL: Final = "(top level)"
_UNKNOWN: Final = "(not in the model)"


@click.command(
    short_help="Time per layer, and where it is lost.",
    epilog=epilog(
        "edgepress layers out/digits/host/bundle",
        "edgepress layers out/digits/host/bundle.tar.gz --device pi4 --top 10",
    ),
)
@click.argument("bundle", type=ExistingPath())
@click.option(
    "--device", "device_name", type=DEVICE, default="local", show_default=True, metavar="NAME", help="Where to run it."
)
@click.option("--affinity", default="default", show_default=True, metavar="CPUS", help="big, little, or e.g. 0,2-3.")
@click.option("--iterations", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--top", type=click.IntRange(1), default=None, help="Show the slowest N layers only.")
@progress_options
def layers(
    bundle: Path, device_name: str, affinity: str, iterations: int, top: int | None, *, quiet: bool, as_json: bool
) -> None:
    """Time every layer of BUNDLE on a device, and hold it against what the device can do.

    What the device can do is measured once (about 10 s) and kept for 30 days.
    """
    import os
    import tempfile

    from pipeline.benchmarking.bundles import open_bundles
    from pipeline.benchmarking.layers import profile_engine
    from pipeline.store.place import default_store_root, measuring_folder, private_root
    from targets.devices import device

    place = device(device_name)
    state = measuring_folder(private_root(default_store_root(os.environ)))
    with (
        tempfile.TemporaryDirectory(prefix="edgepress-layers-") as private,
        waiting("opening the bundle", quiet=quiet, as_json=as_json) as say,
        place.session() as session,
    ):
        (opened,) = open_bundles([bundle], Path(private))
        say(f"profiling on {device_name}")
        found = profile_engine(
            session, opened.folder, opened.entrant.samples, iterations=iterations, affinity=affinity, state=state
        )
    if as_json:
        print_json(found)
        return
    _show(found, top)


def _show(found: Mapping[str, Any], top: int | None) -> None:
    from rich.console import Console

    console = Console()
    console.print(layer_table(found, top))
    for line in summary_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def layer_table(found: Mapping[str, Any], top: int | None) -> Table:
    """One row a node: all in the order of execution, or the slowest ``top`` ones, slowest first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=12)
    table.add_column("operator", overflow="fold", min_width=10)
    for title in ("time us", "share", "attain", "lost us"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True, min_width=8)
    total = sum(layer["own_ns"] for layer in found["layers"]) or 1
    rows = list(found["layers"])
    if top is not None:
        rows = sorted(rows, key=lambda layer: -layer["own_ns"])[:top]
    for layer in rows:
        precision = (layer["kind"] or "").partition(".")[2]
        table.add_row(
            Text(layer_name(layer)),
            Text(f"{layer['op']} {precision}".strip()),
            f"{layer['own_ns'] / 1e3:.1f}",
            f"{100 * layer['own_ns'] / total:.1f} %",
            "-" if layer["pct"] is None else f"{layer['pct']:.0f} %",
            f"{layer['loss_ms'] * 1e3:.1f}" if layer["loss_ms"] > 0 else "-",
            layer["bound"],
        )
    return table


def layer_name(layer: Mapping[str, Any]) -> str:
    """The module's path, with a word where a node belongs to no module."""
    module = layer["module"]
    return _UNKNOWN if module is None else module or _TOP_LEVEL


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """What the table rests on, and the largest losses."""
    wall, inside = found["wall_ns"] / 1e3, sum(layer["own_ns"] for layer in found["layers"]) / 1e3
    device, threads = found["device"], found["threads"]
    used = f"{threads} thread{'s' if threads > 1 else ''}"
    head = f"One inference takes {wall:.1f} us on {device['name']} ({device['cpu_model']}, {used})"
    parts = f"Nodes {inside:.1f} us, outside of them {found['outside_ns'] / 1e3:.1f} us."
    profiler = f"The profiler adds {found['profiler_ns_per_node'] / 1e3:.1f} us to each node"
    loud = f"(inference with it: {found['profiled_wall_ns'] / 1e3:.1f} us); the times above are without it."
    lines = [f"{head}: {found['pct']:.0f} % of attainable.", f"{parts} {profiler} {loud}"]
    for place, loss in enumerate(found["losses"], 1):
        where = f"{place}. {layer_name(loss)}, {loss['op']}"
        lines.append(f"{where}: {loss['loss_ms']:.4f} ms over attainable, {loss['bound']}-bound")
    if found["explanation"]:
        lines.append(f"Note: {found['pct']:.0f} % is {found['explanation']}.")
    if found["calibration_noisy"]:
        lines.append("Note: calibration_noisy: the device did not hold its best speed while it was calibrated.")
    unknown = sorted({str(layer["kind"]) for layer in found["layers"] if not layer["peak_known"]})
    if unknown:
        lines.append(f"Note: no peak is known for {', '.join(unknown)}: only bytes count there.")
    return lines
