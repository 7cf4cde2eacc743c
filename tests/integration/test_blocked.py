"""Wrong credentials: somebody must act. It shows within a second, and heals without a restart."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

import localfirst
from localfirst.testing.servers import PostgresServer, RedisServer
from sync import worker
from tests.polling import eventually

RIGHT, OTHER = "right-secret", "other-secret"

Server = RedisServer | PostgresServer


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(worker, "LONGEST_WAIT", 1.0)  # Ten seconds, for those who have them.
    make: Callable[..., Server] = request.getfixturevalue(f"own_{request.param}")
    return make(password=RIGHT)


def set_password(server: Server, old: str, new: str) -> None:
    """Let the server take another password than before, from everybody."""
    change = _set_in_redis if isinstance(server, RedisServer) else _set_in_postgres
    asyncio.run(change(server.url.replace(RIGHT, old), new))


async def _set_in_redis(url: str, password: str) -> None:
    client: Any = Redis.from_url(url)
    async with client as admin:
        await admin.config_set("requirepass", password)
        for kind in ("normal", "pubsub"):
            await admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


async def _set_in_postgres(url: str, password: str) -> None:
    admin: Any = await asyncpg.connect(url)
    await admin.execute(f"alter role postgres password '{password}'")
    await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    await admin.close()


def shows(store: localfirst.Store, state: str) -> bool:
    return store.status().state == state


def test_a_wrong_password_shows_within_a_second_and_heals(server: Server, tmp_path: Path) -> None:
    options: Any = {"remote": server.url.replace(RIGHT, OTHER), "namespace": f"test-{uuid.uuid4()}"}
    with localfirst.open(tmp_path, **options) as store, localfirst.open(tmp_path, **options, worker="none") as other:
        store.session("s").add_message("user", "x")
        for each in (store, other):
            eventually(partial(shows, each, "blocked"), timeout=1.0)
            status = each.status()
            assert status.pending_changes == 1
            assert status.last_error
            assert "secret" not in status.last_error
        with pytest.raises(localfirst.ConfigurationError):
            store.flush(5)
        set_password(server, RIGHT, OTHER)
        eventually(lambda: shows(store, "online") and shows(other, "online"), timeout=5.0)
        eventually(lambda: store.status().pending_changes == 0, timeout=1.0)
        assert store.status().last_error is None


def test_a_password_that_is_changed_meanwhile_shows_within_a_second_and_heals(server: Server, tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote=server.url, namespace=f"test-{uuid.uuid4()}") as store:
        store.session("s").add_message("user", "x")
        store.flush(10)
        set_password(server, RIGHT, OTHER)
        store.session("s").add_message("user", "y")
        eventually(lambda: shows(store, "blocked"), timeout=1.0)
        set_password(server, OTHER, RIGHT)
        eventually(lambda: shows(store, "online"), timeout=5.0)
        eventually(lambda: store.status().pending_changes == 0, timeout=1.0)
