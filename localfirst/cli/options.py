"""The options that commands share, so that they are spelled and explained the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from localfirst.cli.output import print_error
from localfirst.errors import ConfigurationError
from localfirst.secret import Url, given, has_password

_INSTEAD: Final = {
    "remote": "--remote: put the URL into $LOCALFIRST_REMOTE, or into a file, and pass --remote @FILE",
    "source": "SOURCE: put the URL into a file, and pass @FILE",
}


def read_remote(context: typer.Context, remote: str | None) -> Url | None:
    """The central store that was named, wherever that was done."""
    return None if remote is None else read_address(context, "remote", remote)


def read_address(context: typer.Context, parameter: str, address: str) -> Url:
    """An address that a parameter holds, or names a file that holds it."""
    try:
        url = given(address)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from None
    source = context.get_parameter_source(parameter)
    if source is not None and source.name == "COMMANDLINE" and not address.startswith("@") and has_password(url):
        print_error(f"warning: all users of this machine can see the password in {_INSTEAD[parameter]}")
    return url


StorePath = Annotated[
    Path | None,
    typer.Option(
        "--store",
        envvar="LOCALFIRST_HOME",
        metavar="PATH",
        help="Directory of the store. Without it: the platform's directory for user data.",
        show_default=False,
    ),
]
Remote = Annotated[
    str | None,
    typer.Option(
        "--remote",
        envvar="LOCALFIRST_REMOTE",
        metavar="URL",
        help="The central store: redis://, rediss://, unix://, postgresql:// or file:///directory; or @FILE, a"
        " file that holds it.",
        callback=read_remote,
        show_default=False,
        show_envvar=True,
    ),
]
Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="Tenant or application that the sessions belong to.")
]
Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only sessions whose id begins with this.")]
Owner = Annotated[
    str | None, typer.Option("--owner", metavar="NAME", help="Only sessions of this owner.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Branch = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="A branch of the session. Without it: the one to which the session was switched last in this store.",
        show_default=False,
    ),
]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The id of a session.", show_default=False)]


def checked_remote(remote: str | None) -> str:
    """The central store, for commands that can't do without."""
    if remote is None:
        raise typer.BadParameter("name the central store by --remote or $LOCALFIRST_REMOTE", param_hint="--remote")
    return remote
