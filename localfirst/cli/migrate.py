"""`localfirst import` of what other programs kept: with progress, and a table of what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import localfirst
from localfirst.cli import stores
from localfirst.cli.exits import Exit, NoSession
from localfirst.cli.interrupts import interruptible
from localfirst.cli.keys import key_ring
from localfirst.cli.output import console, count, name, plain, print_error, print_json
from localfirst.migration.inplace import in_place, kept, making
from localfirst.migration.report import MigratedSession, MigrateReport
from localfirst.migration.run import Progress as Told
from localfirst.migration.run import migrate
from localfirst.store import Store


@dataclass(frozen=True)
class Wanted:
    """What the options say of an import."""

    sessions: str | None
    dry_run: bool
    verify: bool
    append: bool
    key_prefix: str
    sessions_table: str
    messages_table: str


def import_into(path: Path | None, namespace: str, source: str, wanted: Wanted, *, as_json: bool) -> None:
    """Import a source into a store."""
    with interruptible(), _told() as told, _opened(path, namespace, dry=wanted.dry_run) as store:
        report = migrate(source, store, progress=told, **_options(wanted))
    if not report.sessions and wanted.sessions is not None:
        raise NoSession(f"there is no session {wanted.sessions!r} in {report.source}")
    empty = not report.sessions and source.startswith(("redis://", "rediss://", "unix://"))
    missed = f"no key there begins with {wanted.key_prefix}: --key-prefix names other keys, the URL another database"
    _tell(report, as_json=as_json, then=missed if empty else "")


def import_in_place(namespace: str, source: str, wanted: Wanted, *, as_json: bool) -> None:
    """Put a store in the place of a file."""
    file = Path(source)
    with interruptible(), _told() as told:

        def bring(found: Path, store: Store) -> MigrateReport:
            return migrate(found, store, progress=told, **_options(wanted))

        report = in_place(file, lambda path: _open(path, namespace), bring)
    if report.ok:
        then = f"{file} is a store now, and the file is {kept(file)}"
    elif file.exists():
        then = f"{file} stays as it was; what could be imported is in {making(file)}"
    else:
        then = f"the file is {kept(file)}, of which not all could be imported: run this again, or rename it back"
    _tell(report, as_json=as_json, then=then)


def _options(wanted: Wanted) -> dict[str, Any]:
    return asdict(wanted)


def _opened(path: Path | None, namespace: str, *, dry: bool) -> AbstractContextManager[Store]:
    if dry and not (stores.home(path) / "data").is_dir():
        return _nowhere(namespace)
    return stores.to_write(path, namespace)


@contextmanager
def _nowhere(namespace: str) -> Iterator[Store]:
    """A store that is gone afterwards: a look must not make one."""
    with tempfile.TemporaryDirectory() as directory, stores.to_write(Path(directory), namespace) as store:
        yield store


def _open(path: Path, namespace: str) -> Store:
    """One that a power cut takes nothing from: the file is to be moved away when all is in it."""
    return localfirst.open(
        path, remote="", namespace=namespace, worker="none", durability="full", encryption_key=key_ring()
    )


@contextmanager
def _told() -> Iterator[Told | None]:
    """On a terminal: a bar for the session that is read."""
    err = Console(stderr=True)
    if not err.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("importing", total=None)
        yield lambda session_id, done, rows: progress.update(
            task, description=f"importing {Text(name(session_id)[:40]).markup}", completed=done, total=rows
        )


def _tell(report: MigrateReport, *, as_json: bool, then: str = "") -> None:
    if as_json:
        print_json(
            {
                "source": report.source,
                "dry_run": report.dry_run,
                "ok": report.ok,
                "verified": report.verified,
                "found": report.found,
                "imported": report.imported,
                "skipped": report.skipped,
                "damaged": report.damaged,
                "sessions": report.sessions,
            }
        )
    else:
        _print(report)
        for session in report.sessions:
            for note in session.notes:
                print_error(f"{name(session.session_id)}: {note}")
        if then:
            typer.echo(then)
    raise typer.Exit(_exit(report))


def _exit(report: MigrateReport) -> Exit:
    if report.ok:
        return Exit.OK
    return Exit.DIFFERENT if report.verified is False else Exit.FAILED


def _print(report: MigrateReport) -> None:
    if report.sessions:
        console().print(_table(report))
        typer.echo()
    told = "would be imported" if report.dry_run else "imported"
    parts = [f"{count(report.imported, 'item')} of {count(len(report.sessions), 'session')} {told}"]
    parts += [f"{report.skipped} were here already"] if report.skipped else []
    parts += [f"{count(report.damaged, 'row')} left out that hold no item"] if report.damaged else []
    parts += [count(len(report.problems), "problem")] if report.problems else []
    parts += ["all of it read back and compared"] if report.verified else []
    typer.echo("; ".join(parts))


def _table(report: MigrateReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", overflow="fold")
    columns: list[tuple[str, Callable[[MigratedSession], int]]] = [
        ("rows", lambda each: each.found),
        ("imported", lambda each: each.imported),
        ("before", lambda each: each.skipped),
        ("damaged", lambda each: each.damaged),
    ]
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for each in report.sessions:
        problem = Text(" ".join(plain(each.problem or "").split()), style="red")
        table.add_row(Text(name(each.session_id)), *(str(value(each)) for _, value in columns), problem)
    return table
