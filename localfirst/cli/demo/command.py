"""The command `localfirst demo`: which central store is played against, and how the end is told."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from localfirst.cli import stores
from localfirst.cli.demo.outage import Outage, ServerStopped, StoresDetached
from localfirst.cli.demo.play import Result, play
from localfirst.cli.demo.screen import Screen, screen_for
from localfirst.cli.exits import Exit
from localfirst.cli.interrupts import interruptible
from localfirst.cli.options import read_remote
from localfirst.cli.output import console, count, latency
from localfirst.errors import LocalFirstError
from localfirst.testing.servers import PostgresServer, RedisServer, ServerError, ServerProcess


def demo(
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote",
            metavar="URL",
            callback=read_remote,
            help="Play against this central store. It is never taken from the environment: the demo writes to it.",
            show_default=False,
        ),
    ] = None,
    servers: Annotated[
        bool, typer.Option("--servers", help="Start a Redis and a Postgres, play against each, and really stop them.")
    ] = False,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Where the session of the demo goes.")
    ] = "localfirst-demo",
) -> None:
    """Watch two replicas part and meet again.

    One conversation, on two replicas that lose the central store, write on, and find back to one history.

    Without options the central store is a directory that is removed at the end. In a store named by --remote, the
    session of the demo stays. Exits with 0 only if both replicas hold the same items and metadata at the end, and
    every item of the conversation once.
    """
    if remote is not None and servers:
        raise typer.BadParameter("is for servers of the demo's own: leave out --remote", param_hint="--servers")
    out = console()
    screen = screen_for(out)
    with interruptible():
        if servers:
            results = [_play_on_server(make, namespace, screen) for make in (RedisServer, _postgres)]
        else:
            results = [_play_on(remote, namespace, screen)]
    equal = all(result.equal for result in results)
    if servers:
        out.print(_verdict(equal, "both replicas are equal, on Redis and on Postgres" if equal else "see above"))
    raise typer.Exit(Exit.OK if equal else Exit.NOT_SYNCED)


def _play_on(remote: str | None, namespace: str, screen: Screen) -> Result:
    with tempfile.TemporaryDirectory(prefix="localfirst-demo-") as directory:
        central = remote or (Path(directory).resolve() / "central").as_uri()
        name = stores.describe(remote) if remote else "a directory on this machine, removed at the end"
        result = _perform(central, name, namespace, Path(directory), StoresDetached(central), screen)
        if remote:
            note = f"   {result.session_id} stays in it, in namespace {namespace}"
            screen.console.print(Text(note, style="dim"))
    screen.console.print(_conclusion(result))
    return result


def _play_on_server(make: Callable[[], ServerProcess], namespace: str, screen: Screen) -> Result:
    try:
        with make() as server, tempfile.TemporaryDirectory(prefix="localfirst-demo-") as directory:
            name = f"{server.title} at {stores.describe(server.url)}, started for this"
            result = _perform(server.url, name, namespace, Path(directory), ServerStopped(server), screen)
            screen.console.print(_conclusion(result))
            return result
    except (ServerError, LookupError) as error:
        raise LocalFirstError(str(error)) from error


def _postgres() -> PostgresServer:
    return PostgresServer(fsync=True)  # Else its INSERTs would be faster than those of any real one.


def _perform(remote: str, name: str, namespace: str, directory: Path, outage: Outage, screen: Screen) -> Result:
    screen.console.print(Text.assemble(("\nlocalfirst demo", "bold"), f"  central store: {name}"))
    result = asyncio.run(play(remote, namespace, directory, outage, screen))
    _print_result(result, screen.console)
    return result


def _print_result(result: Result, out: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    table.add_row("   add_items", latency(result.write_median), "median; to this disk, online or not")
    table.add_row("   get_items", latency(result.read_median), "median; the whole history")
    direct = result.direct
    taken = latency(direct.seconds) if direct.seconds is not None else "not measured"
    table.add_row("   direct write", taken, f"{direct.trouble or 'median'}; {direct.what}")
    out.print(Text(), table, Text(), sep="\n")


def _conclusion(result: Result) -> Text:
    if result.equal:
        return _verdict(True, f"both replicas are equal: {count(result.items, 'item')} and all metadata")
    wrong = {
        "the items differ": result.same_items,
        "the metadata differ": result.same_metadata,
        f"{result.items} of {result.expected} items came, or counts are wrong": result.complete,
    }
    return _verdict(False, "; ".join(what for what, right in wrong.items() if not right))


def _verdict(equal: bool, text: str) -> Text:
    return Text(f"✓ {text}", style="bold green") if equal else Text(f"✗ NOT equal: {text}", style="bold red")
