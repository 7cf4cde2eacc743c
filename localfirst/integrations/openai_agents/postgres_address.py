"""What SQLAlchemy connects to, as the address of a central store."""

from __future__ import annotations

import inspect
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from localfirst.errors import ConfigurationError
from localfirst.secret import Url

_POSTGRES: Final = (
    "postgresql",
    "postgres",
    "postgresql+asyncpg",
    "postgresql+psycopg",
    "postgresql+psycopg_async",
    "postgresql+psycopg2",
)
_KEPT: Final = frozenset(
    {
        "application_name",
        "host",
        "notify",
        "options",
        "port",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslpassword",
        "sslrootcert",
        "statement_cache_size",
        "target_session_attrs",
    }
)
_RENAMED: Final = {"ssl": "sslmode", "prepared_statement_cache_size": "statement_cache_size"}
_OF_THE_DRIVER: Final = frozenset(
    {
        "async_fallback",
        "client_encoding",
        "command_timeout",
        "connect_timeout",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "prepared_statement_name_func",
        "prepare_threshold",
        "timeout",
    }
)
"""What they say is about the driver's own connections: ours have bounds of their own."""
_MODES: Final = {"true": "require", "false": "disable"}


def of_url(url: object) -> Url:
    """The address in a URL of SQLAlchemy, a string or its own kind. Raises `ConfigurationError` for what is no address
    of Postgres, and for options that neither can be kept nor mean nothing here.

    >>> of_url("postgresql+psycopg2://me:secret@db/app?sslmode=verify-full&connect_timeout=5").partition("?")[2]
    'sslmode=verify-full'
    """
    text = Url(url if isinstance(url, str) else url.render_as_string(hide_password=False))  # type: ignore[attr-defined]
    scheme, separator, rest = map(Url, text.partition("://"))  # Which no traceback shows.
    if not separator or scheme not in _POSTGRES:
        raise ConfigurationError(_what_works(scheme if separator else ""))
    base, _, query = map(Url, rest.partition("?"))
    if "@" in query:  # What would be taken for options is the rest of a password.
        raise ConfigurationError("write @ / ? # in a user, password or database of a URL as %40 %2F %3F %23")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        _put(options, name, value)
    return Url(f"postgresql://{base}{'?' if options else ''}{urlencode(options)}")


def of_engine(engine: Any) -> Url:
    """The address to which an engine connects, sync or async. Raises `ConfigurationError` as `of_url`, and for engines
    that connect with more than their URL says: what is left out might be what keeps others from listening."""
    known = getattr(engine, "url", None)
    if known is None:
        raise ConfigurationError(f"a {type(engine).__name__} is no engine of SQLAlchemy: pass one, or db_url=")
    address = of_url(known)
    plain = getattr(engine, "sync_engine", engine)
    made = inspect.getclosurevars(plain.pool._creator).nonlocals
    _, said = plain.dialect.create_connect_args(known)
    if plain.dialect._has_events or "creator" in made or made.get("cparams") != said:
        raise ConfigurationError(
            "this engine connects with more than its URL says (connect_args, creator, or a listener to do_connect), and"
            " localfirst would not: pass db_url= with all options in it, such as ?sslmode=verify-full&sslrootcert=FILE"
        )
    return address


def _put(options: dict[str, str], name: str, value: str) -> None:
    kept = _RENAMED.get(name, name)
    if name in _OF_THE_DRIVER or (name == "channel_binding" and value != "require"):
        return
    if kept not in _KEPT:
        raise ConfigurationError(
            f"the option {name} of a Postgres URL is not understood by localfirst: leave it out. What is:"
            f" {', '.join(sorted(_KEPT))}"
        )
    value = _MODES.get(value.lower(), value) if name == "ssl" else value
    options[kept] = f"{options[kept]},{value}" if kept in ("host", "port") and kept in options else value


def _what_works(scheme: str) -> str:
    works = (
        "SQLAlchemySession works with postgresql://, with or without +asyncpg, +psycopg or +psycopg2; SQLiteSession"
        " with a directory, RedisSession with Redis"
    )
    if scheme.startswith("sqlite"):
        return f"localfirst keeps sessions on disk by itself: take SQLiteSession(session_id, directory). {works}"
    what = f"no central store has addresses that begin with {scheme:.40}://" if scheme else "this is not a URL"
    return f"{what}. {works}"
