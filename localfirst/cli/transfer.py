"""`localfirst export` and `localfirst import`: sessions as files that people and version control can read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from localfirst import jsonvalue
from localfirst.cli import stores
from localfirst.cli.options import AsJson, Branch, Namespace, SessionId, StorePath
from localfirst.cli.output import count, name, print_json
from localfirst.errors import InvalidItem, LocalFirstError, MalformedChange
from localfirst.export import read_export


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


def import_session(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export; - for stdin.", show_default=False)],
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="ID", help="Import into this session, not the one that was exported."),
    ] = None,
    store: StorePath = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Add an export to a session.

    Items and metadata, all or nothing; what the session already holds stays. Items go to the branch to which the
    session was switched last in this store. The store is made if it is missing. What
    was imported reaches the central store through whoever syncs the directory: the application, or `localfirst sync`.
    """
    data = _read(file)
    items, metadata = read_export(data)
    session_id = session if session is not None else data.get("session_id")
    if not isinstance(session_id, str):
        raise InvalidItem("this export names no session: name one by --session; nothing was imported")
    with stores.to_write(store, namespace) as opened:
        opened.session(session_id).import_data(data)
    if as_json:
        print_json({"session_id": session_id, "items": len(items), "metadata": len(metadata)})
    else:
        typer.echo(f"{_amount(items, metadata)} added to {name(session_id)}")


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
