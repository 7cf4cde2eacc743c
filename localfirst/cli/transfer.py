"""`localfirst export` and `localfirst import`: sessions as files that people and version control can read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from localfirst import jsonvalue
from localfirst.cli import stores
from localfirst.cli.migrate import Wanted, import_in_place, import_into
from localfirst.cli.options import AsJson, Branch, Namespace, SessionId, StorePath, read_address
from localfirst.cli.output import count, name, print_json
from localfirst.errors import InvalidItem, LocalFirstError, MalformedChange
from localfirst.export import read_export
from localfirst.migration.detect import kind_of


def export_session(
    session: SessionId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to a file instead of stdout.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")] = False,
    branch: Branch = None,
    store: StorePath = None,
    namespace: Namespace = "default",
) -> None:
    """Write a session as JSON.

    Items and metadata, one item a line; `localfirst import` reads it.
    """
    with stores.to_read(store, namespace) as opened:
        stores.find(opened, session)
        export = opened.session(session, branch=branch).export()
        document = encode(export)
    if output is None or str(output) == "-":
        typer.echo(document, nl=False)
    else:
        _write(output, document, force)
        typer.echo(f"{_amount(export['items'], export['metadata'])} of {name(session)} written to {output}", err=True)


def _read_source(context: typer.Context, source: str) -> str:
    if source.startswith("@") or "://" in source:
        return read_address(context, "source", source)
    return source


def import_session(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An export, or - for stdin; an SQLite file of the OpenAI Agents SDK or of openstackai; redis:// or"
            " postgresql://, or @FILE, a file that holds such an address.",
            show_default=False,
            callback=_read_source,
        ),
    ],
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="ID",
            help="Of an export: the session that it is added to. Else: only sessions whose ids fit this, with * and ?.",
        ),
    ] = None,
    store: StorePath = None,
    namespace: Namespace = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; tell what would be.")] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add to sessions that hold other items already; else they are left alone.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read back, and compare.")] = True,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Put a store in the place of SOURCE, a file of SQLite, which becomes SOURCE.before-localfirst.",
        ),
    ] = False,
    key_prefix: Annotated[str, typer.Option("--key-prefix", metavar="TEXT", help="Of the keys in Redis.")] = (
        "agents:session"
    ),
    sessions_table: Annotated[
        str, typer.Option("--sessions-table", metavar="NAME", help="In SQLite and Postgres.")
    ] = "agent_sessions",
    messages_table: Annotated[
        str, typer.Option("--messages-table", metavar="NAME", help="In SQLite and Postgres.")
    ] = "agent_messages",
    as_json: AsJson = False,
) -> None:
    """Import sessions: an export, or what other programs kept.

    An export is added to a session, items and metadata, all or nothing; what the session already holds stays. Items go
    to the branch to which the session was switched last in this store.

    Of another program's SOURCE all sessions come, and the SOURCE stays as it is. The command can be run again, after it
    was stopped or when the SOURCE has grown: only what is new comes. Rows that hold no item are left out and named.
    Exits with 1 when a session was left alone, with 6 when what was read back differs.

    The store is made if it is missing. What was imported reaches the central store through whoever syncs the directory:
    the application, or `localfirst sync`.
    """
    wanted = Wanted(session, dry_run, verify, append, key_prefix, sessions_table, messages_table)
    if in_place and not dry_run:
        if "://" in source or session is not None or append or not verify:
            raise typer.BadParameter("takes all of an SQLite file", param_hint="--in-place")
        import_in_place(namespace, source, wanted, as_json=as_json)
    elif _is_export(source):
        _import_export(Path(source), session, store, namespace, dry_run=dry_run, as_json=as_json)
    else:
        import_into(store, namespace, source, wanted, as_json=as_json)


def _is_export(source: str) -> bool:
    """Or else nothing that is known: what is wrong with it, reading it tells."""
    return "://" not in source and kind_of(source) in ("localfirst-export", None)


def _import_export(
    file: Path, session: str | None, store: Path | None, namespace: str, *, dry_run: bool, as_json: bool
) -> None:
    data = _read(file)
    items, metadata = read_export(data)
    session_id = session if session is not None else data.get("session_id")
    if not isinstance(session_id, str):
        raise InvalidItem("this export names no session: name one by --session; nothing was imported")
    if not dry_run:
        with stores.to_write(store, namespace) as opened:
            opened.session(session_id).import_data(data)
    if as_json:
        print_json({"session_id": session_id, "items": len(items), "metadata": len(metadata)})
    else:
        told = "would be added" if dry_run else "added"
        typer.echo(f"{_amount(items, metadata)} {told} to {name(session_id)}")


def _amount(items: list[Any], metadata: dict[str, Any]) -> str:
    return f"{count(len(items), 'item')} and {count(len(metadata), 'metadata key')}"


def encode(export: dict[str, Any]) -> bytes:
    """An export as JSON with one item a line. Value by value through `jsonvalue`, whose round trip is exact."""
    fields = {key: jsonvalue.encode(value) for key, value in export.items() if key not in ("metadata", "items")}
    metadata = {key: jsonvalue.encode(value) for key, value in export["metadata"].items()}
    items = b",\n".join(jsonvalue.encode(item) for item in export["items"])
    parts = [*_members(fields), b'"metadata":{%b}' % b",".join(_members(metadata)), b'"items":[\n%b\n]' % items]
    return b"{%b}\n" % b",\n".join(parts)


def _members(encoded: dict[str, bytes]) -> list[bytes]:
    return [b"%b:%b" % (jsonvalue.encode(key), value) for key, value in encoded.items()]


def _read(file: Path) -> Any:
    source = "stdin" if str(file) == "-" else str(file)
    try:
        document = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise LocalFirstError(f"{source} can't be read: {error.strerror}") from error
    if not document.strip():
        raise InvalidItem(f"{source} is empty; nothing was imported")
    try:
        return jsonvalue.decode(document)
    except MalformedChange as error:
        raise InvalidItem(f"{source} holds no export: {error}; nothing was imported") from error


def _write(file: Path, document: bytes, force: bool) -> None:
    special = file.exists() and not file.is_file()  # A pipe or a device holds nothing to lose.
    how = os.O_TRUNC if force or special else os.O_EXCL
    try:
        # Conversations are private: a new file is for its owner only.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | how, 0o600), "wb") as opened:
            opened.write(document)
    except FileExistsError:
        raise LocalFirstError(f"{file} is there already: overwrite it by --force, or name another") from None
    except OSError as error:
        raise LocalFirstError(f"{file} can't be written: {error.strerror}") from error
