"""Central stores: the interface, one module per backend, and the choice of one by its URL."""

from __future__ import annotations

from localfirst.errors import ConfigurationError
from localfirst.secret import shown
from sync.central.base import CentralStore

_REDIS = ("redis", "rediss", "unix")
_POSTGRES = ("postgresql", "postgres", "postgresql+asyncpg")
_LATER = ("redis+cluster", "redis+sentinel")


def scheme_of(url: str) -> str:
    """The scheme of a central store's URL. Raises `ConfigurationError` if there is no such store."""
    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    if scheme in _LATER:
        raise ConfigurationError(f"{scheme}:// is not supported yet: use redis:// or rediss:// to a single server")
    if scheme not in (*_REDIS, *_POSTGRES, "file"):
        what = f"no central store has URLs that begin with {scheme}://" if scheme else "this is not a URL"
        raise ConfigurationError(
            f"{what}: a central store is redis://host:6379, rediss://…, unix:///socket, postgresql://user@host/database"
            " or file:///directory"
        )
    return scheme


def describe(url: str) -> str:
    """A URL without credentials and options, for people."""
    scheme_of(url)
    return shown(url)


def connect(url: str, namespace: str) -> CentralStore:
    """The central store at a URL; connects when it is first used. Raises `ConfigurationError`."""
    scheme = scheme_of(url)
    # Only the driver that is needed is imported: each costs more than opening a store does.
    if scheme in _REDIS:
        from sync.central.redis import RedisStore

        return RedisStore(url, namespace)
    if scheme in _POSTGRES:
        from sync.central.postgres import PostgresStore

        return PostgresStore(url, namespace)
    from sync.central.directory import DirectoryStore

    return DirectoryStore(url, namespace)
