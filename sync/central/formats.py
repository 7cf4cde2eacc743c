"""Whether what a central store holds is for this version: the same answer for every backend."""

from __future__ import annotations

from localfirst.errors import ConfigurationError, RemoteVersionError
from sync.central.base import FORMAT_VERSION


def check_format(server: str, found: int) -> None:
    """Raise for a store of another format, named as `server`; nothing may have been written to it.

    >>> check_format("redis://host:6379", FORMAT_VERSION)
    """
    if found > FORMAT_VERSION:
        raise RemoteVersionError(
            f"{server} has format {found}, this localfirst knows {FORMAT_VERSION}: upgrade it. Nothing was written"
        )
    if found < FORMAT_VERSION:
        raise ConfigurationError(
            f"{server} has format {found}, which an unreleased version of localfirst made: empty it, or use another "
            "database or namespace. Nothing was written"
        )
