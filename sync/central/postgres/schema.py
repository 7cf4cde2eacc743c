"""Creates the schema and brings it up to date; safe when many clients do so at once."""

from __future__ import annotations

from typing import Any, Final

from localfirst.change import new_id
from localfirst.errors import ConfigurationError
from sync.central.base import FORMAT_VERSION, Identity
from sync.central.formats import check_format
from sync.central.postgres.statements import QUERIES, SCHEMA

STEPS: Final = ("tables", "functions", "views")
"""The history of the schema, oldest first. Only ever added to."""


async def identify(connection: Any) -> Identity:
    """Which store this is; creates or upgrades it where that is due."""
    row = await _read(connection)
    if row is None or row["schema_step"] < len(STEPS):
        row = await _install(connection)
    return Identity(row["store_id"], row["format"], row["now"])


async def _install(connection: Any) -> Any:
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
