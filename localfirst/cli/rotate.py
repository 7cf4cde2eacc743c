"""`localfirst rotate`: seal everything with the newest key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import localfirst
from localfirst.cli import stores
from localfirst.cli.exits import Exit
from localfirst.cli.interrupts import interruptible
from localfirst.cli.keys import key_ring
from localfirst.cli.options import AsJson, Namespace, Remote, StorePath
from localfirst.cli.output import count, name, print_error, print_json
from localfirst.rotation import Progress as Told


def rotate(
    store: StorePath = None,
    remote: Remote = None,
    namespace: Namespace = "default",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long it may take.")
    ] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Seal everything with the newest key: what older keys sealed, and what was written without one.

    The keys come from the file that `localfirst --key-file FILE rotate` names, or $LOCALFIRST_KEY_FILE, one a line and
    the newest first, or from $LOCALFIRST_KEY. What is pending is sent first; others go on reading and writing. Each
    device does this for its own disk, once all have the new key; when all have ended with 0, no other key is needed.
    Exits with 3 when something is left; run it again then.
    """
    with stores.to_read(store, namespace):
        pass  # It must be there.
    with interruptible(), _progress() as told:
        opened = localfirst.open(
            stores.home(store), remote=remote or "", namespace=namespace, worker="none", encryption_key=key_ring()
        )
        try:
            report = opened.rotate(timeout, progress=told)
        finally:
            opened.close(timeout=0)
    if as_json:
        print_json({"ok": report.ok, "sessions": report.sessions, "left": report.left})
    else:
        for session_id, reason in report.left.items():
            print_error(f"{name(session_id)}: {reason}")
        done = report.sessions - len(report.left)
        typer.echo(f"{count(done, 'session')} {'is' if done == 1 else 'are'} sealed with the newest key")
    raise typer.Exit(Exit.OK if report.ok else Exit.NOT_SYNCED)


@contextmanager
def _progress() -> Iterator[Told | None]:
    """On a terminal: a bar."""
    err = Console(stderr=True)
    if not err.is_terminal:
        yield None
        return
    columns = TextColumn("sealing anew"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
