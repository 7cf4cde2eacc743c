"""`localfirst delete` and `localfirst cleanup`: end sessions, here at once and everywhere with the next sync."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final

import typer

from localfirst.cli import stores
from localfirst.cli.options import AsJson, Namespace, SessionId, StorePath
from localfirst.cli.output import ago, count, name, print_json
from localfirst.status import SessionInfo
from localfirst.store import Store

_UNITS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LENGTH: Final = re.compile(r"(\d{1,9})(s|min|h|d|w)")

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def delete(
    session: SessionId,
    yes: Yes = False,
    store: StorePath = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Delete a session: from this disk at once, and everywhere else with the next sync.

    Other replicas drop what they have of it, also what they could not send yet. Tells what that is here, and asks. The
    deletion goes up by whoever syncs the directory: the application, or `localfirst sync`.
    """
    with stores.to_mend(store, namespace) as opened:
        info = stores.find(opened, session)
        if not yes:
            typer.confirm(f"Delete {_told(info)}? It can't be had back", abort=True, err=True)
        opened.delete(session)
    if as_json:
        print_json({"deleted": [session]})
    else:
        typer.echo(f"{name(session)} is deleted here; elsewhere with the next sync")


def cleanup(
    idle_for: Annotated[
        str, typer.Option("--idle-for", metavar="TIME", help="How long nothing was written: 90s, 15min, 12h, 30d, 8w.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which sessions these are.")] = False,
    yes: Yes = False,
    store: StorePath = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Delete the sessions to which nothing was written for long, as `localfirst delete` does.

    Tells which they are, and asks. Those that were evicted from this disk stay: others may have gone on with them.
    """
    least = checked_length(idle_for)
    with stores.to_mend(store, namespace) as opened:
        found = _that_may_go(opened, least)
        for info in () if as_json else found:
            typer.echo(f"{_told(info)}, changed {ago(info.updated_at)}", err=not dry_run)
        if dry_run and not found and not as_json:
            typer.echo(f"no session was found to be idle for {idle_for.strip()}", err=True)
        if found and not yes and not dry_run:
            told = f"Delete {count(len(found), 'session')}? They can't be had back"
            typer.confirm(told, abort=True, err=True)
        ids = [info.session_id for info in found]
        if found and not dry_run:  # But for what was written to meanwhile.
            idle = {info.session_id for info in opened.sessions(idle_for=least)}
            ids = [session_id for session_id in ids if session_id in idle]
            for session_id in ids:
                opened.delete(session_id)
    if as_json:
        print_json({"found" if dry_run else "deleted": ids})
    elif not dry_run:
        typer.echo(f"{count(len(ids), 'session')} deleted here; elsewhere with the next sync")


def _that_may_go(opened: Store, least: timedelta) -> list[SessionInfo]:
    """Others may have gone on with a session that was evicted here; that can't be told without the central store."""
    seen = list(opened.sessions(idle_for=least))
    found = [info for info in seen if info.state != "evicted"]
    if len(found) < len(seen):
        stay = count(len(seen) - len(found), "evicted session")
        typer.echo(f"left as they are: {stay}, with which others may have gone on", err=True)
    return found


def checked_length(text: str) -> timedelta:
    """A length of time as people write it.

    >>> checked_length("90s"), checked_length("30d")
    (datetime.timedelta(seconds=90), datetime.timedelta(days=30))
    """
    found = _LENGTH.fullmatch(text.strip())
    try:
        if found:
            return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    except OverflowError:
        pass
    raise typer.BadParameter(
        f"not a length of time: {text!r:.40}; say 90s, 15min, 12h, 30d or 8w", param_hint="--idle-for"
    )


def _told(info: SessionInfo) -> str:
    if info.state == "sealed":
        return f"{name(info.session_id)} (sealed: what is in it can't be read without its key)"
    waiting = f", {info.pending} pending" if info.pending else ""
    if info.state == "evicted":
        return f"{name(info.session_id)} (evicted: its items are only in the central store{waiting})"
    return f"{name(info.session_id)} ({count(info.items, 'item')}{waiting})"
