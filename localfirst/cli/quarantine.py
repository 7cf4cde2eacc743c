"""`localfirst quarantine`: which sessions can't be synced and why; try again, or give up what they are there for."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from localfirst.cli import stores
from localfirst.cli.exits import EXIT_CODES, NoSession, standing
from localfirst.cli.options import AsJson, Namespace, SessionId, StorePath
from localfirst.cli.output import ago, console, count, name, plain, print_json
from localfirst.cli.refused import what_is_dropped
from localfirst.status import Quarantined
from localfirst.store import Store

quarantine = typer.Typer(
    name="quarantine",
    invoke_without_command=True,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@quarantine.callback()
def list_quarantined(
    context: typer.Context, store: StorePath = None, namespace: Namespace = "default", as_json: AsJson = False
) -> None:
    """List the sessions that can't be synced until somebody acts, and why.

    push: the central store refuses what was written here. pull: what is there can't be read here. In the other
    direction the session goes on, and so does every other one.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context, context.invoked_subcommand)
        return
    with stores.to_read(store, namespace) as opened:
        found = opened.quarantined()
    if as_json:
        print_json(found)
    elif found:
        console().print(_table(found))
        typer.echo(f"\n{_advice(found)}")
    else:
        typer.echo("nothing is in quarantine")
    raise typer.Exit(standing(quarantined=len(found)))


@quarantine.command(epilog=EXIT_CODES)
def retry(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="SESSION", help="Ids of sessions.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are in quarantine.")] = False,
    store: StorePath = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Let sessions out of quarantine, to be tried again.

    Whoever syncs the directory does so, now or at the next sync; a session that the central store has lost is sent
    again. What still can't be synced comes back into quarantine.
    """
    if bool(sessions) == everything:
        raise typer.BadParameter("name sessions, or take --all", param_hint="SESSION")
    with stores.to_mend(store, namespace) as opened:
        chosen = _chosen(opened, sessions)
        for session_id in chosen:
            opened.retry(session_id)
    if as_json:
        print_json({"retried": chosen})
    else:
        typer.echo(f"{count(len(chosen), 'session')} to be tried again at the next sync")


@quarantine.command(epilog=EXIT_CODES)
def discard(
    session: SessionId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    store: StorePath = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Give up what a session is in quarantine for, and let it go on.

    What the central store refuses to take is dropped here; what can't be read there is passed over; a session that it
    has lost is dropped here too. Tells what that is, and asks.
    """
    with stores.to_mend(store, namespace) as opened:
        _chosen(opened, [session])
        dropped = what_is_dropped(opened.path, opened.namespace, session)
        for line in dropped:
            typer.echo(plain(line), err=True)
        if dropped and not yes:
            typer.confirm(f"Give that up in {name(session)}? It can't be had back", abort=True, err=True)
        opened.discard(session)
    if as_json:
        print_json({"session_id": session, "discarded": dropped})
    else:
        typer.echo(f"{name(session)} goes on at the next sync")


def _refuse_options(context: typer.Context, command: str) -> None:
    """An option of the list that stands before another command would not count there."""
    given = [
        option
        for option in ("store", "namespace", "as_json")
        if (source := context.get_parameter_source(option)) is not None and source.name == "COMMANDLINE"
    ]
    if given:
        spelled = "--json" if given[0] == "as_json" else f"--{given[0]}"
        raise typer.BadParameter(f"put it behind: localfirst quarantine {command} … {spelled} …", param_hint=spelled)


def _chosen(opened: Store, sessions: list[str] | None) -> list[str]:
    """The named sessions, or all that are in quarantine. Raises `NoSession`, before anything is done."""
    inside = dict.fromkeys(each.session_id for each in opened.quarantined())
    for session_id in sessions or ():
        if session_id not in inside:
            raise NoSession(
                f"session {session_id!r} of namespace {opened.namespace!r} is not in the quarantine of {opened.path}"
            )
    return list(inside if sessions is None else dict.fromkeys(sessions))


def _advice(found: list[Quarantined]) -> str:
    """What can be done, and what helps where giving up does not."""
    hopeless = [name(each) for each in dict.fromkeys(each.session_id for each in found if not each.can_discard)]
    helps = ["`localfirst quarantine retry` tries again."]
    if any(each.can_discard for each in found):
        helps.append("`localfirst quarantine discard` gives up what stops a session.")
        helps += [f"Not {', '.join(hopeless)}."] if hopeless else []
    if hopeless:
        helps.append(
            "What the reason names has to be put right first. A missing key is named by `localfirst --key-file`. If the"
            " central log is damaged, delete the session there: what is here is sent again then."
        )
    return " ".join(helps)


def _table(found: list[Quarantined]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", overflow="fold")
    table.add_column("direction", no_wrap=True)
    table.add_column("since", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for each in found:
        reason = Text(" ".join(plain(each.reason).split()))
        table.add_row(Text(name(each.session_id)), each.direction, ago(each.since), reason)
    return table
