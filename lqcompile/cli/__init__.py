"""The command line: ``lqcompile COMMAND``.

Exit code 0 only when the thing asked for was done; 1 for an error, 2 for wrong usage, 130 for Ctrl-C. Results go to
standard output, everything else to standard error; where the reader of standard output leaves (``| head``) the program
does too, without a word and with 1. Each command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from lqcompile.cli import (
    benchmark,
    building,
    bundling,
    demonstration,
    devices,
    inspection,
    profiling,
    recording,
    reporting,
    running,
    serving,
    targeting,
    training,
    tuning,
    verification,
)
from lqcompile.cli.console import INTERRUPTED
from lqcompile.errors import LQCompileError

DEBUG = "--debug"

app = typer.Typer(
    name="lqcompile",
    help="Compile networks of learned low-bit codes (LQ-Nets), run them, and prove that nothing changed.",
    epilog="Start with: lqcompile demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("build", epilog=building.EXAMPLE)(building.build)
app.command("run", epilog=running.EXAMPLE)(running.run)
app.command("verify", epilog=verification.EXAMPLE)(verification.verify)
app.command("inspect", epilog=inspection.EXAMPLE)(inspection.inspect)
app.command("bench", epilog=benchmark.EXAMPLE)(benchmark.bench)
app.command("profile", epilog=profiling.EXAMPLE)(profiling.profile)
app.command("report", epilog=reporting.EXAMPLE)(reporting.report)
app.command("tune", epilog=tuning.EXAMPLE)(tuning.tune)
app.add_typer(recording.app, name="records")
app.command("train", epilog=training.EXAMPLE)(training.train)
app.command("targets", epilog=targeting.EXAMPLE)(targeting.targets)
app.command("devices", epilog=devices.EXAMPLE)(devices.devices)
app.command("bundle", epilog=bundling.EXAMPLE)(bundling.bundle)
app.command("serve", epilog=serving.EXAMPLE)(serving.serve)
app.command("demo", epilog=demonstration.EXAMPLE)(demonstration.demo)


def run_program() -> None:
    """The program itself: runs `main` on the process's arguments and exits with its code.

    After Ctrl-C it leaves without Python's own shutdown: CPython 3.11 ends a process by SIGINT, whatever exit code was
    asked for, where the interrupt passed through an ``exec`` of a string (as dataclasses make while modules load).
    """
    code = main()
    if code != INTERRUPTED:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    Args:
        argv: arguments without the program's name, by default those of the process.
    """
    if argv is None:
        signal.signal(signal.SIGTERM, _terminate)
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in arguments
    try:
        outcome = app([item for item in arguments if item != DEBUG], prog_name="lqcompile", standalone_mode=False)
    except LQCompileError as error:
        return _report(str(error), error.exit_code, debug=debug)
    except typer.TyperException as error:
        return _report(f"{error.format_message()} (see 'lqcompile --help')", error.exit_code, debug=debug)
    except (ImportError, AttributeError) as error:
        if importlib.util.find_spec("onnx") is not None or not _lacks_compiler(error):
            raise
        return _report(_missing(arguments), LQCompileError.exit_code, debug=debug)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _discard_output()
        message = (
            "found a full disk, expected room for standard output and for temporary files; free some, write elsewhere, "
            "or set TMPDIR"
        )
        return _report(message, LQCompileError.exit_code, debug=debug)
    except KeyboardInterrupt:
        outcome = INTERRUPTED
    code = outcome if isinstance(outcome, int) else 0
    if code == INTERRUPTED:
        sys.stderr.write("lqcompile: interrupted\n")
    return code


@app.callback()
def _root(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=lambda value: _show_version(value))
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Declare the options of the program itself, for its help; `main` handles ``--debug``."""


def _show_version(value: bool) -> None:
    if value:
        import lqcompile

        sys.stdout.write(f"lqcompile {lqcompile.__version__}\n")
        raise typer.Exit


def _report(message: str, code: int, *, debug: bool) -> int:
    """One line on standard error, after the traceback where it was asked for."""
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"lqcompile: error: {' '.join(message.split())}\n")
    return code


def _discard_output() -> None:
    """Let what is still to be written to standard output vanish: Python would fail once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lacks_compiler(error: ImportError | AttributeError) -> bool:
    """Whether a part is not there, or a module of TVM asked in vain for a function of its compiler."""
    return isinstance(error, ImportError) or getattr(error.obj, "__name__", "").startswith("tvm.")


def _missing(arguments: Sequence[str]) -> str:
    """What to say on a board, whose bundle has no compiler."""
    command = next((item for item in arguments if not item.startswith("-")), "lqcompile")
    return (
        f"{command}: found no compiler here, expected all of lqcompile; a board's bundle runs and serves compiled "
        "models, so do this on the machine that made the bundle"
    )


def _terminate(number: int, _frame: object) -> None:
    """Leave by an exception, so that temporary files are removed."""
    raise SystemExit(128 + number)
