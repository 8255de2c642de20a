"""The command ``edgepress``: the group, exit codes, and how errors are shown."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Final, NoReturn

import click

from pipeline.cli.bundles import sign, verify
from pipeline.cli.devices import devices
from pipeline.cli.explain import COMPLETE_VARIABLE, completion, explain
from pipeline.cli.init import init
from pipeline.cli.layers import layers
from pipeline.cli.maintenance import cache, doctor, schema
from pipeline.cli.measure import compare, measure
from pipeline.cli.options import VERSION
from pipeline.cli.report import report
from pipeline.cli.search import search
from pipeline.cli.stages import STAGE_COMMANDS, plan, run
from pipeline.cli.targets import targets
from targets.errors import OWN_BUG_EXIT_CODE, EdgepressError, Interrupted, UsageError

EPILOG: Final = """
\b
Examples:
  edgepress run examples/digits              compress, measure, verify, report
  edgepress run recipe.toml -t raspberry-pi-5 --device pi5
  edgepress measure fp32.tar.gz int8.tar.gz --device pi5
  edgepress verify out/digits/host/bundle.tar.gz

\b
Exit codes: 0 ok, 2 usage, 3 bad input, 4 refused for security,
5 environment (disk, memory), 6 device, 7 budget not met, 70 own bug,
129/130/143 interrupted.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="edgepress")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors that are explained in three lines.")
def cli(*, debug: bool) -> None:
    """From a trained model, its data and a budget to a verified bundle for edge hardware."""
    del debug  # read from sys.argv by main(), which must know it even when parsing fails


_BY_SIGNAL: Final = frozenset(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
_COMMANDS: Final = (
    *(run, plan, search, *STAGE_COMMANDS),
    *(verify, sign, measure, compare, layers, report),
    *(devices, targets, cache, doctor, init, schema, explain, completion),
)
for command in _COMMANDS:
    cli.add_command(command)


def main() -> NoReturn:
    """Runs the command line and exits with the documented code."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of a shared machine train ten times slower
    _heed_signals()
    code = _run()
    _close_streams()
    if code in _BY_SIGNAL:
        os._exit(code)  # all is closed and said: taking torch apart would keep whoever pressed Control-C waiting
    sys.exit(code)


def _run() -> int:
    try:
        return _invoke()
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(signal.SIGINT)
    except _Stopped as stop:
        return _interrupted(stop.signum)
    except EdgepressError as error:
        _show(error)
        if "--debug" in sys.argv:
            traceback.print_exc()
        return error.exit_code
    except Exception:  # noqa: BLE001 - the process border: what is not ours to explain is our own bug
        traceback.print_exc()
        click.echo("This is a bug in edgepress: please report the lines above.", err=True)
        return OWN_BUG_EXIT_CODE


def _invoke() -> int:
    """Parses and calls; a pipe that its reader has closed (`edgepress ... | head`) is the end, and no error."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "edgepress", COMPLETE_VARIABLE, instruction)
    try:
        with cli.make_context("edgepress", sys.argv[1:]) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return UsageError.exit_code
    except click.UsageError as error:
        raise UsageError(error.format_message(), _usage_of(error), _help_of(error)) from error
    except BrokenPipeError:
        return 0
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):  # else it is how rich ends then
            raise
    return 0


def _close_streams() -> None:
    """Without this, the interpreter would complain at its end of what a closed pipe did not take."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show(error: EdgepressError) -> None:
    lines = [f"error: {error.what}"]
    if len(error.faults) > 1:
        lines += [f"  {fault.where}: {fault.what}; {fault.fix}" for fault in error.faults]
    else:
        lines += [f"  why: {error.why}", f"  fix: {error.fix}"]
    click.echo("\n".join(_printable(line) for line in lines), err=True)


def _printable(text: str) -> str:
    """Control characters of foreign names must not reach the terminal."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def _usage_of(error: click.UsageError) -> str:
    return error.ctx.get_usage().removeprefix("Usage: ") if error.ctx else "edgepress COMMAND"


def _help_of(error: click.UsageError) -> str:
    return f"see `{error.ctx.command_path} --help`" if error.ctx else "see `edgepress --help`"


class _Stopped(BaseException):
    """A signal asked us to end; not an Exception, so that nothing swallows it."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum)
        self.signum = signum


def _heed_signals() -> None:
    """The first signal ends the run in order; a second one ends the process at once, and its children die with it.

    What the caller had us ignore (``nohup``, a shell's background job) stays ignored.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is _stop:
            signal.signal(signum, _stop_now)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise _Stopped(signal.Signals(number))


def _stop_now(number: int, frame: FrameType | None) -> None:
    del frame
    os._exit(128 + number)


def _interrupted(signum: signal.Signals) -> int:
    error = Interrupted(
        f"interrupted by {signum.name}",
        "what is finished is kept: stages, and epochs of a training",
        "run the same command to continue",
    )
    _show(error)
    return 128 + signum


if __name__ == "__main__":
    main()
