"""The typer application: which commands there are, and what becomes of an error."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from localfirst import __version__
from localfirst.cli import keys
from localfirst.cli.bench.command import bench
from localfirst.cli.demo.command import demo
from localfirst.cli.exits import EXIT_CODES, exit_code
from localfirst.cli.lives import cleanup, delete
from localfirst.cli.output import LOST, print_error
from localfirst.cli.quarantine import quarantine
from localfirst.cli.rotate import rotate
from localfirst.cli.search import search
from localfirst.cli.sessions import ls, show
from localfirst.cli.status import status
from localfirst.cli.sync import sync
from localfirst.cli.transfer import export_session, import_session
from localfirst.cli.verify import reseed, verify
from localfirst.errors import LocalFirstError, RemoteLost


class _Commands(TyperGroup):
    """Ends a command that raised one of our errors with one line and an exit code that says which kind it was."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LocalFirstError as error:
            print_error(_told(error))
            raise typer.Exit(exit_code(error)) from None


def _told(error: LocalFirstError) -> str:
    return LOST if isinstance(error, RemoteLost) else str(error)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"localfirst {__version__}")
        raise typer.Exit


@app.callback()
def localfirst(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            envvar="LOCALFIRST_KEY_FILE",
            metavar="FILE",
            help="Encryption keys of the store, one a line, the newest first. Without it: $LOCALFIRST_KEY.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Local-first sessions for agents: look at a store, sync it, move sessions in and out."""
    # What went wrong is told once, by the command; `sync` sends the log to stderr itself.
    logging.getLogger("localfirst").addHandler(logging.NullHandler())
    keys.use_file(key_file)


app.command(epilog=EXIT_CODES)(demo)
app.command(epilog=EXIT_CODES)(status)
app.command(epilog=EXIT_CODES)(sync)
app.command(epilog=EXIT_CODES)(ls)
app.command(epilog=EXIT_CODES)(show)
app.command(epilog=EXIT_CODES)(search)
app.command(epilog=EXIT_CODES)(verify)
app.add_typer(quarantine)
app.command(epilog=EXIT_CODES)(rotate)
app.command(epilog=EXIT_CODES)(delete)
app.command(epilog=EXIT_CODES)(cleanup)
app.command(epilog=EXIT_CODES)(reseed)
app.command("export", epilog=EXIT_CODES)(export_session)
app.command("import", epilog=EXIT_CODES)(import_session)
app.command(epilog=EXIT_CODES)(bench)


def run() -> None:
    """Run the command line on the arguments of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # What the terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="localfirst")
        finally:
            _flush()  # Here its failure can still be told.
    except OSError as error:
        _end(error)


def _flush() -> None:
    if sys.stdout is not None:  # As it is in a process that was started without.
        sys.stdout.flush()


def _end(error: OSError) -> None:
    """What was printed, or a file, can't be written: one line, and no second try when the interpreter ends."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno != errno.EPIPE:  # Whoever read it has seen enough.
        what = error.strerror or str(error) or type(error).__name__
        with contextlib.suppress(OSError):
            print_error(f"{error.filename or 'input or output failed'}: {what}")
    sys.exit(1)
