"""Which source somebody means, who names a path or an address."""

from __future__ import annotations

import os
from pathlib import Path

from localfirst.errors import ConfigurationError
from localfirst.migration.detect import kind_of
from localfirst.migration.source import Source
from localfirst.secret import Url, given

_REDIS = ("redis", "rediss", "unix")


def open_source(source: str | os.PathLike[str], *, key_prefix: str, sessions_table: str, messages_table: str) -> Source:
    """Raises `ConfigurationError` for what can't be one, `SourceUnreadable` for what can't be read, and for servers
    what a central store raises."""
    url = given(source) if isinstance(source, str) else Url()
    scheme = url.partition("://")[0].lower().partition("+")[0] if "://" in url else ""
    # Only the driver that is needed is imported.
    if scheme in _REDIS:
        from localfirst.migration.from_redis import RedisSource

        return RedisSource(url, key_prefix)
    if scheme in ("postgresql", "postgres"):
        from localfirst.migration.from_postgres import PostgresSource

        return PostgresSource(url, sessions_table, messages_table)
    if scheme not in ("", "sqlite"):
        raise ConfigurationError(
            f"conversations can't be read from {scheme}://: name a file, redis://host:6379 or"
            " postgresql://user@host/database"
        )
    file = Path(source if not scheme else url.partition("://")[2].removeprefix("/").partition("?")[0])
    return _open_file(file, sessions_table, messages_table)


def _open_file(file: Path, sessions_table: str, messages_table: str) -> Source:
    kind = kind_of(file)
    if kind == "localfirst-export":
        from localfirst.migration.from_export import ExportSource

        return ExportSource(file)
    if kind == "openstackai":
        from localfirst.migration.from_openstackai import OpenstackaiSource

        return OpenstackaiSource(file)
    if kind is None:
        if not file.exists():
            raise ConfigurationError(f"there is no file {file}")
        raise ConfigurationError(
            f"{file} holds no conversations that are known here: name an SQLite file of the OpenAI Agents SDK or of"
            " openstackai, or an export"
        )
    from localfirst.migration.from_sqlite import SqliteSource

    return SqliteSource(file, sessions_table, messages_table)
