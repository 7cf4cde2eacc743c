"""`localfirst verify` and `localfirst reseed`: is all of it there, and what if the central store has lost it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import localfirst
from localfirst.cli import stores
from localfirst.cli.exits import Exit, standing
from localfirst.cli.interrupts import interruptible
from localfirst.cli.keys import key_ring
from localfirst.cli.options import AsJson, Namespace, Remote, StorePath, checked_remote
from localfirst.cli.output import console, count, in_quarantine, name, plain, print_error, print_json
from localfirst.status import SessionCheck, VerifyReport

_LOST = (
    "`localfirst sync` sends again what the central store has lost. If it asks first, `localfirst quarantine retry`"
    " agrees to that for a session, `localfirst reseed` for all of another central store."
)


def verify(
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="The id of a session. Without it: all.", show_default=False),
    ] = None,
    store: StorePath = None,
    remote: Remote = None,
    namespace: Namespace = "default",
    full: Annotated[
        bool, typer.Option("--full", help="Read the logs in the central store too, not only their digests.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long it may take.")
    ] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Compare a store with its central store, by digest.

    Fetches what is new first, and changes nothing else: sends nothing, and puts nothing into quarantine. What is on
    this disk is read again. Changes that wait to be sent are told, and are no difference; what the central store has
    lost is one. Exits with 6 when something differs, with 3 when that could not be told in time, with 5 when nothing
    differs and the central store refuses some of what waits.
    """
    url = checked_remote(remote)
    path = stores.home(store)
    with stores.to_read(store, namespace) as opened:
        stores.find(opened, session)
    with interruptible(), _progress():
        opened = localfirst.open(path, remote=url, namespace=namespace, worker="none", encryption_key=key_ring())
        try:
            report = opened.verify(timeout, session_id=session, full=full)
        finally:
            opened.close(timeout=0)
    if as_json:
        print_json({"ok": report.ok, "sessions": report.sessions})
    else:
        _print(report)
    with stores.to_read(store, namespace) as opened:
        stopped = {each.session_id for each in opened.quarantined() if session in (None, each.session_id)}
    if stopped and report.ok:
        print_error(f"no difference but for {in_quarantine(len(stopped))}")
    raise typer.Exit(standing(quarantined=len(stopped), wrong=Exit.OK if report.ok else Exit.DIFFERENT))


def reseed(store: StorePath = None, namespace: Namespace = "default", as_json: AsJson = False) -> None:
    """Agree that what is here is sent to a central store that is another one than before, or was emptied.

    For applications that open the store with on_remote_loss="ask", and for `localfirst sync --on-remote-loss ask`:
    they wait for it, and go on within ten seconds. Nothing is sent by this command itself.
    """
    with stores.to_mend(store, namespace) as opened:
        accepted = opened.reseed()
    if as_json:
        print_json({"accepted": accepted})
    elif accepted:
        typer.echo("agreed: what is here is sent to the central store at the next sync")
    else:
        typer.echo("nobody asks: no other central store was found than the one that is followed")


@contextmanager
def _progress() -> Iterator[None]:
    """On a terminal: that it goes on, and for how long."""
    # Not while stderr is a file or a pipe: there, rich would write the last state at the end.
    err = Console(stderr=True)
    if not err.is_terminal:
        yield
        return
    columns = SpinnerColumn(), TextColumn("comparing with the central store"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        progress.add_task("")
        yield


def _print(report: VerifyReport) -> None:
    if report.problems:
        console().print(_table(report.problems))
        typer.echo()
    typer.echo(_summary(report))
    if any(check.lost for check in report.problems):
        typer.echo(_LOST)


def _table(problems: list[SessionCheck]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", overflow="fold")
    table.add_column("pending", justify="right", no_wrap=True)
    table.add_column("problem", overflow="fold")
    for check in problems:
        problem = Text(" ".join(plain(check.problem).split()), style="red")
        table.add_row(Text(name(check.session_id)), str(check.pending), problem)
    return table


def _summary(report: VerifyReport) -> str:
    pending = sum(check.pending for check in report.sessions)
    waiting = f"; {count(pending, 'change')} not sent yet" if pending else ""
    differ = len(report.problems)
    told = f"{count(differ, 'problem')} in {count(len(report.sessions), 'session')}" if differ else ""
    return (told or f"{count(len(report.sessions), 'session')} compared, no difference") + waiting
