"""`localfirst ls` and `localfirst show`: the sessions of a store, without disturbing those who use it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from localfirst import jsonvalue
from localfirst.cli import stores
from localfirst.cli.options import AsJson, Branch, Namespace, Owner, Prefix, Remote, SessionId, StorePath
from localfirst.cli.output import ago, ahead, console, count, name, one_line, plain, print_json, size, state_text
from localfirst.errors import MalformedChange
from localfirst.metadata import Conflict
from localfirst.status import Branch as BranchInfo
from localfirst.status import SessionInfo

_STYLES = {"user": "bold cyan", "assistant": "bold green", "call": "magenta", "output": "magenta"}


def ls(
    store: StorePath = None,
    remote: Remote = None,
    namespace: Namespace = "default",
    prefix: Prefix = "",
    owner: Owner = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="KEY=VALUE",
            help="Only sessions with this in their metadata; JSON, else a string. May be given several times.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the sessions of a store.

    Nothing is fetched or sent. With --remote, sessions that are not in the central store yet show as pending rather
    than local. Of sessions that were evicted, or whose keys are not here, owner and metadata are not known.
    """
    with stores.to_read(store, namespace) as opened:
        found = opened.sessions(prefix, owner=owner, where=dict(map(_condition, where or ())))
        infos = [stores.with_state(info, remote=remote is not None) for info in found]
    if as_json:
        print_json(infos)
    elif infos:
        console().print(_table(infos))
    else:
        typer.echo("no sessions")


def show(
    session: SessionId,
    store: StorePath = None,
    namespace: Namespace = "default",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=0, help="Only the last N items.", show_default=False)
    ] = None,
    branch: Branch = None,
    with_conflicts: Annotated[
        bool,
        typer.Option("--conflicts", help="Also conflicts: writes to metadata that knew nothing of each other."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the items of a session, oldest first, and its metadata."""
    with stores.to_read(store, namespace) as opened:
        info = stores.with_state(stores.find(opened, session))
        shown = opened.session(session, branch=branch)
        branches, content = shown.branches(), shown.export()
        conflicts = shown.conflicts() if with_conflicts else None
    items = content["items"] if limit is None else content["items"][len(content["items"]) - limit :]
    if as_json:
        told = {} if conflicts is None else {"conflicts": [_as_dict(conflict) for conflict in conflicts]}
        print_json({"session": info, "branches": branches, "items": items, "metadata": content["metadata"], **told})
    else:
        _print_head(info, branches)
        _print_metadata(content["metadata"], conflicts)
        _print_items(items)


def _condition(text: str) -> tuple[str, Any]:
    """A key and its value.

    >>> _condition("stars=5"), _condition("topic=travel"), _condition('topic="5"')
    (('stars', 5), ('topic', 'travel'), ('topic', '5'))
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} has no =: write KEY=VALUE", param_hint="--where")
    try:
        return key, jsonvalue.decode(value.encode())
    except (MalformedChange, UnicodeEncodeError):
        return key, value


def _table(infos: list[SessionInfo]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", overflow="fold")
    owned = any(info.owner is not None for info in infos)
    if owned:
        table.add_column("owner", overflow="fold")
    for title in ("items", "size", "pending"):
        table.add_column(title, justify="right", no_wrap=True)
    expire = any(info.expires_at for info in infos)
    for title in ("state", "changed", "expires") if expire else ("state", "changed"):
        table.add_column(title, no_wrap=True)
    for info in infos:
        table.add_row(
            Text(name(info.session_id)),
            *([Text(name(info.owner or ""))] if owned else []),
            str(info.items),
            size(info.bytes),
            str(info.pending),
            state_text(info.state),
            ago(info.updated_at),
            *([ahead(info.expires_at)] if expire else []),
        )
    return table


def _as_dict(conflict: Conflict) -> dict[str, Any]:
    """Without the problem, which only the event tells."""
    return {name: value for name, value in conflict._asdict().items() if name != "problem"}


def _print_head(info: SessionInfo, branches: list[BranchInfo]) -> None:
    out = console()
    waiting = f", {info.pending} pending" if info.pending else ""
    expires = f", expires {ahead(info.expires_at)}" if info.expires_at else ""
    head, told = Text(name(info.session_id), style="bold"), f"{count(info.items, 'item')}, {size(info.bytes)}"
    out.print(head.append(f"  {told}, {info.state}{waiting}{expires}", style="dim"))
    if len(branches) > 1:
        out.print(Text("branches: " + ", ".join(map(_branch, branches)), style="dim"))


def _print_metadata(metadata: dict[str, Any], conflicts: list[Conflict] | None) -> None:
    out = console()
    for key, value in metadata.items():
        out.print(Text.assemble((f"{name(key)} ", "yellow"), _json(value)))
    for conflict in conflicts or ():
        current, incoming, winner = map(_json, (conflict.current, conflict.incoming, conflict.winner))
        told = f"{current} and {incoming} -> {winner}  "
        by = f"{name(conflict.rule)}, {name(' and '.join(conflict.origins))}"
        out.print(Text.assemble((f"conflict {name(conflict.key)} ", "red"), told, (by, "dim")))
    if conflicts == []:
        out.print(Text("no conflicts", style="dim"))


def _print_items(items: list[Any]) -> None:
    out = console()
    for item in items:
        kind, text = describe(item)
        out.print(Text.assemble((f"\n{name(kind)}\n", _STYLES.get(kind, "bold")), plain(text)))


def _json(value: Any) -> str:
    return plain(json.dumps(value, ensure_ascii=False))


def _branch(branch: BranchInfo) -> str:
    return f"{name(branch.name)} ({count(branch.items, 'item')}{', shown here' if branch.current else ''})"


def describe(item: Any) -> tuple[str, str]:
    """Who or what an item is from, and what it says, in the formats of OpenAI's and most other APIs.

    >>> describe({"role": "user", "content": "Hello"})
    ('user', 'Hello')
    >>> describe({"type": "function_call", "name": "look", "arguments": "{}"})
    ('call', 'look({})')
    """
    if not isinstance(item, dict):
        return "item", json.dumps(item, ensure_ascii=False)
    if item.get("type") == "function_call":
        return "call", f"{item.get('name')}({item.get('arguments')})"
    if item.get("type") == "function_call_output":
        return "output", _text_of(item.get("output"))
    if "role" in item and "content" in item:
        return str(item["role"]), _text_of(item["content"])
    return str(item.get("type", "item")), json.dumps(item, ensure_ascii=False)


def brief(item: Any, width: int) -> tuple[str, str]:
    """As `describe`, on one line."""
    kind, text = describe(item)
    return kind, one_line(text, width)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "\n".join(
        part["text"]
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else json.dumps(part, ensure_ascii=False)
        for part in parts
    )
