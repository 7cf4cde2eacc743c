"""`localfirst search`: the items in which a text stands."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from localfirst.cli import stores
from localfirst.cli.options import AsJson, Namespace, Owner, Prefix, StorePath
from localfirst.cli.output import console, name, plain, print_json
from localfirst.cli.sessions import describe
from localfirst.search import Match, find_folded


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for, in any case.", show_default=False)],
    store: StorePath = None,
    namespace: Namespace = "default",
    prefix: Prefix = "",
    owner: Owner = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after N items.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search the items of all sessions of a store, the newest first.

    Nothing is fetched: sessions that were evicted are left out, and those whose keys are not here.
    """
    if not text:
        raise typer.BadParameter("there is nothing to look for", param_hint="TEXT")
    with stores.to_read(store, namespace) as opened:
        matches = opened.search(text, prefix=prefix, owner=owner, limit=limit)
        if as_json:
            print_json(list(matches))
            return
        match = None
        for match in matches:
            console().print(_line(match, " ".join(text.split()).casefold()))
    if match is None:
        typer.echo("nothing found")


def _line(match: Match, looked_for: str) -> Text:
    """Where it is and what stands there."""
    kind, _ = describe(match.item)
    branch = "" if match.branch == "main" else f" on {name(match.branch)}"
    excerpt = Text(plain(match.excerpt))
    place = find_folded(match.excerpt, looked_for)
    if place is not None:
        excerpt.stylize("bold black on yellow", *place)
    where = (f"{name(match.session_id)}", "bold"), (f" {match.index}{branch} {name(kind)}: ", "dim")
    return Text.assemble(*where, excerpt)
