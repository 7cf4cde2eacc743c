"""`localfirst status`: how a store and its central store stand to each other, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, NamedTuple

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from localfirst.cli import stores
from localfirst.cli.exits import Exit, standing
from localfirst.cli.interrupts import interruptible
from localfirst.cli.options import AsJson, Namespace, Remote, StorePath
from localfirst.cli.output import LOST, ago, console, count, duration, name, plain, print_json, size, state_text
from localfirst.errors import RemoteLost
from localfirst.status import Recovered, StoreStatus
from localfirst.store import Store
from sync.leader import is_led
from sync.status import SyncStatus, published

_NAMED = 5


def status(
    store: StorePath = None,
    remote: Remote = None,
    namespace: Namespace = "default",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until interrupted.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Time between looks.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Tell how store and central store stand.

    Only looks: it neither syncs nor connects, and tells what the process that syncs the directory wrote down. Exits
    with 3 when sync is blocked, offline, or stopped with changes waiting that could go.
    """
    with stores.to_read(store, namespace) as opened:

        def look() -> _Look:
            return _look(opened, remote)

        if watch:
            with interruptible():
                last = _watch(look, interval, as_json)
        else:
            last = _once(look, as_json)
    wrong = Exit.OK if in_order(last.status) else Exit.NOT_SYNCED
    raise typer.Exit(standing(quarantined=last.status.quarantined, wrong=wrong))


class _Look(NamedTuple):
    """What is told."""

    status: StoreStatus
    quarantined: list[str]
    """The ids of sessions."""


def in_order(status: StoreStatus) -> bool:
    """Whether everything but what is in quarantine is in the central store or on its way, or there is none."""
    if status.state == "stopped":
        return status.pending_changes == status.quarantined_changes
    return status.state in ("local", "connecting", "online")


def _look(store: Store, remote: str | None) -> _Look:
    found = store.status()
    sync = published(store.path, store.namespace)
    led = is_led(store.path, store.namespace)
    if led and sync is not None:
        found = _told(found, sync)
    elif remote is not None or sync is not None or found.quarantined:
        last = _utc(sync.last_synced_at) if sync is not None else None
        found = replace(found, state="connecting" if led else "stopped", last_synced_at=last)
    quarantined = list(dict.fromkeys(each.session_id for each in store.quarantined()))
    return _Look(replace(found, remote=stores.describe(remote) if remote else None), quarantined)


def _told(status: StoreStatus, sync: SyncStatus) -> StoreStatus:
    return replace(
        status,
        state=sync.state,
        last_synced_at=_utc(sync.last_synced_at),
        last_error=sync.last_error,
        clock_offset=sync.clock_offset,
    )


def _utc(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc)


def _once(look: Callable[[], _Look], as_json: bool) -> _Look:
    found = look()
    if as_json:
        print_json(found.status)
    else:
        console().print(table(*found))
    return found


def _watch(look: Callable[[], _Look], interval: float, as_json: bool) -> _Look:
    found = look()
    out = console()
    try:
        if out.is_terminal and not as_json:
            with Live(table(*found), console=out, auto_refresh=False) as live:
                while True:
                    time.sleep(interval)
                    found = look()
                    live.update(table(*found), refresh=True)
        while True:
            if as_json:
                print_json(found.status)
            else:
                out.print(line(found.status))
            time.sleep(interval)
            found = look()
    except KeyboardInterrupt:  # The way to end it.
        return found


def table(status: StoreStatus, quarantined: Sequence[str] = ()) -> Table:
    """A status for people, with the ids of the sessions in quarantine."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for title, value in _rows(status, quarantined):
        grid.add_row(title, value)
    return grid


def _rows(status: StoreStatus, quarantined: Sequence[str]) -> list[tuple[str, Text]]:
    oldest = status.oldest_pending_seconds
    age = f", the oldest for {duration(oldest)}" if oldest is not None else ""
    rows = [
        ("state", state_text(status.state)),
        ("pending", Text(f"{count(status.pending_changes, 'change')}, {size(status.pending_bytes)}{age}")),
        ("synced", Text(ago(status.last_synced_at))),
        ("remote", Text(plain(status.remote or "not named"))),
        ("store", Text(plain(status.path))),
        ("replica", Text(plain(status.replica_id))),
    ]
    if status.clock_offset is not None:
        rows.insert(3, ("clock", Text(f"central store {status.clock_offset:+.3f} s")))
    if status.quarantined:
        rows.insert(1, ("quarantined", _quarantined(status.quarantined, quarantined)))
    if status.recovered is not None:
        rows.append(("damaged", Text(_recovered(status.recovered), style="red")))
    if status.last_error:
        rows.insert(1, ("error", Text(_error(status.last_error), style="red")))
    return rows


def _recovered(found: Recovered) -> str:
    lost = f"{count(found.lost_changes, 'change')} made here can't be read"
    kept = f"; the broken database is kept in {plain(found.path)}" if found.path else ""
    return f"{ago(found.at)}: what can be read was saved, {lost}{kept}"


def _quarantined(number: int, sessions: Sequence[str]) -> Text:
    named = [name(session_id) for session_id in sessions[:_NAMED]] + ["…"] * (len(sessions) > _NAMED)
    told = f" ({', '.join(named)}): see `localfirst quarantine`"
    return Text.assemble((count(number, "session"), "bold red"), told)


def line(status: StoreStatus) -> Text:
    """A status on one line, for logs."""
    text = Text.assemble(
        time.strftime("%H:%M:%S "),
        state_text(status.state),
        f", {count(status.pending_changes, 'change')} pending",
    )
    if status.quarantined:
        text.append(f", {count(status.quarantined, 'session')} quarantined")
    return text.append(f": {' '.join(_error(status.last_error).split())}") if status.last_error else text


def _error(told: str) -> str:
    return LOST if told == str(RemoteLost()) else plain(told)
