"""Creates the schema and brings it up to date; safe when many clients do so at once."""

from __future__ import annotations

from typing import Any, Final

from asyncpg import InsufficientPrivilegeError

from localfirst.change import new_id
from localfirst.errors import ConfigurationError
from sync.central.base import FORMAT_VERSION, Identity
from sync.central.formats import check_format
from sync.central.postgres.statements import QUERIES, SCHEMA

STEPS: Final = ("tables", "functions", "views", "sealed", "tenants")
"""The history of the schema, oldest first. Only ever added to."""


async def identify(connection: Any, namespace: str) -> tuple[Identity, str | None]:
    """Which store this is, and the channel for hints if the namespace has one of its own. Creates or upgrades the
    schema where that is due. Raises `ConfigurationError` if this role may not do that, or does not see the namespace:
    to it, all sessions would be missing."""
    row = await _read(connection)
    if row is None or row["schema_step"] < len(STEPS):
        row = await _install(connection, row)
    identity = Identity(row["store_id"], row["format"], row["now"])
    if not row["parted"]:
        return identity, None
    channel, admitted, role = await connection.fetchrow(QUERIES["admit"], namespace)
    if not admitted:
        raise ConfigurationError(
            f"the role {role} may not use the namespace {namespace!r}, as this database is parted among roles: use the"
            " namespace that is its own, or let the owner of the schema call localfirst.confine for it"
        )
    return identity, channel


async def _install(connection: Any, found: Any) -> Any:
    try:
        # Whatever is the default there: what others did before we got the lock must be seen.
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(QUERIES["lock_schema"])
            row = await _read(connection)
            done = row["schema_step"] if row else 0
            for name in STEPS[done:]:
                await connection.execute(SCHEMA[name])
            store_id = row["store_id"] if row else new_id()
            await connection.execute(QUERIES["remember_schema"], store_id, FORMAT_VERSION, max(done, len(STEPS)))
            return await connection.fetchrow(QUERIES["identify"])
    except InsufficientPrivilegeError as error:
        what = "there is none in this database" if found is None else "that of this database is an older one"
        raise ConfigurationError(
            f"the schema localfirst: {what}, and this role may not change that ({error}); let its owner connect once"
            " (localfirst sync --once), and grant this role the use of it"
        ) from None


async def _read(connection: Any) -> Any:
    """The row that describes the store, or None if there is no store yet. Raises if it is not for us."""
    database = await connection.fetchrow(QUERIES["inspect"])
    if database["encoding"] != "UTF8":
        raise ConfigurationError(
            f"the database has the encoding {database['encoding']}: create one with the encoding UTF8"
        )
    if not database["installed"]:
        return None
    row = await connection.fetchrow(QUERIES["identify"])
    if row is None:
        raise ConfigurationError(
            "the table localfirst.store is empty: restore it, or drop the schema localfirst, so that replicas send"
            " everything again"
        )
    check_format("the central store", row["format"])
    return row
