"""What the agent would wait for without a local store: the same items, each written straight to the server.

A list or a table of the demo's own, removed at the end. Measured after the play, so that neither slows the other.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from localfirst.cli.demo.script import Item
from sync.central import scheme_of

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Direct(NamedTuple):
    """What was measured: the kind of write, and the median in seconds, or why there is none."""

    what: str
    seconds: float | None
    trouble: str = ""


async def measure(remote: str, items: list[Item], run_id: str) -> Direct:
    """Write items one by one to the server behind a URL, as a program without localfirst would."""
    what, writer = _KINDS.get(_kind(remote), _KINDS["directory"])
    lines = [json.dumps(item) for item in items]
    what += " over loopback" if urlsplit(remote).hostname in _LOOPBACK else ""
    try:
        return Direct(what, median(await writer(remote, lines, f"localfirst_demo_{run_id}")))
    except Exception as error:  # Any driver's: the demo is about something else.
        return Direct(what, None, type(error).__name__)


def _kind(remote: str) -> str:
    scheme = scheme_of(remote)
    if scheme.startswith("postgres"):
        return "postgres"
    return "directory" if scheme == "file" else "redis"


async def _redis(remote: str, lines: list[str], name: str) -> list[float]:
    from redis.asyncio import Redis

    async with Redis.from_url(remote) as client:
        push: Any = client.rpush  # The annotations of redis-py leave open whether it is awaitable.
        try:
            return await _each(lines, lambda line: push(name, line))
        finally:
            await client.delete(name)


async def _postgres(remote: str, lines: list[str], name: str) -> list[float]:
    import asyncpg

    connection = await asyncpg.connect(remote.replace("postgresql+asyncpg://", "postgresql://", 1))
    try:
        await connection.execute(f"CREATE TABLE {name} (id bigserial PRIMARY KEY, item json NOT NULL)")
        try:
            insert = await connection.prepare(f"INSERT INTO {name} (item) VALUES ($1)")
            return await _each(lines, insert.fetch)
        finally:
            await connection.execute(f"DROP TABLE {name}")
    finally:
        await connection.close()


async def _directory(remote: str, lines: list[str], name: str) -> list[float]:
    file = Path(unquote(urlsplit(remote).path)) / f"{name}.db"
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")

        async def insert(line: str) -> None:
            connection.execute("INSERT INTO items (item) VALUES (?)", (line,))

        return await _each(lines, insert)
    finally:
        connection.close()
        file.unlink(missing_ok=True)


async def _each(lines: list[str], write: Callable[[str], Awaitable[Any]]) -> list[float]:
    spent = []
    for line in lines:
        started = time.perf_counter()
        await write(line)
        spent.append(time.perf_counter() - started)
    return spent


_KINDS = {
    "redis": ("RPUSH to the same Redis", _redis),
    "postgres": ("INSERT into the same Postgres", _postgres),
    "directory": ("fsynced SQLite INSERT in the same directory", _directory),
}
