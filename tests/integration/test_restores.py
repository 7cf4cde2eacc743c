"""Central stores that really lost data: emptied, restored from a backup, failed over to a replica that lagged behind.

After each, every replica and the central store have everything, once, and the sessions agree.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from localfirst.testing.servers import PostgresServer, RedisServer, postgres_bin_dir
from tests.conftest import OwnPostgres, OwnRedis
from tests.faults.devices import SESSIONS, Begin
from tests.faults.proxy import Proxy
from tests.polling import eventually

# Backups


class Backup(ABC):
    """A central store that is saved and restored with its own tools."""

    url: str

    @abstractmethod
    def save(self) -> None: ...

    @abstractmethod
    def restore(self) -> None: ...


class PostgresBackup(Backup):
    """pg_dump, and pg_restore into a database made anew."""

    def __init__(self, server: PostgresServer, path: Path) -> None:
        self.url = urlsplit(server.url)._replace(path="/central").geturl()
        self._server = server.url
        self._dump = path / "central.dump"
        self._run("psql", self._server, "-c", "CREATE DATABASE central")

    def save(self) -> None:
        self._run("pg_dump", "--format=custom", f"--file={self._dump}", self.url)

    def restore(self) -> None:
        self._run("psql", self._server, "-c", "DROP DATABASE central WITH (FORCE)", "-c", "CREATE DATABASE central")
        self._run("pg_restore", "--exit-on-error", f"--dbname={self.url}", str(self._dump))

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([postgres_bin_dir() / program, *arguments], check=True, capture_output=True, timeout=60)


class RedisBackup(Backup):
    """A copy of what the server keeps on disk."""

    def __init__(self, server: RedisServer, path: Path) -> None:
        self.url = server.url
        self._server = server
        self._files = server.directory / "appendonlydir"
        self._copy = path / "backup"

    def save(self) -> None:
        self._server.stop()
        shutil.copytree(self._files, self._copy)
        self._server.start()

    def restore(self) -> None:
        self._server.kill()
        shutil.rmtree(self._files)
        shutil.copytree(self._copy, self._files)
        self._server.start()


class DirectoryBackup(Backup):
    """A copy of the directory. Nobody may use it meanwhile: an open database does not notice that its file was
    replaced."""

    def __init__(self, path: Path) -> None:
        self._central = path / "central"
        self._copy = path / "backup"
        self.url = self._central.as_uri()

    def save(self) -> None:
        shutil.copytree(self._central, self._copy)

    def restore(self) -> None:
        shutil.rmtree(self._central)
        shutil.copytree(self._copy, self._central)


@pytest.fixture(params=["redis", "postgres"])
def server_backup(
    request: pytest.FixtureRequest, tmp_path: Path, own_redis: OwnRedis, own_postgres: OwnPostgres
) -> Backup:
    """Of a server: it may be restored while replicas use it."""
    if request.param == "redis":
        return RedisBackup(own_redis(), tmp_path)
    return PostgresBackup(own_postgres(), tmp_path)


@pytest.fixture(params=["directory", "redis", "postgres"])
def backup(request: pytest.FixtureRequest, tmp_path: Path, own_redis: OwnRedis, own_postgres: OwnPostgres) -> Backup:
    if request.param == "redis":
        return RedisBackup(own_redis(), tmp_path)
    if request.param == "postgres":
        return PostgresBackup(own_postgres(), tmp_path)
    return DirectoryBackup(tmp_path)


def test_a_backup_is_restored_while_replicas_are_further(server_backup: Backup, begin: Begin) -> None:
    devices = begin(server_backup.url)
    devices.write("a", "saved")
    devices.write("b", "saved")
    devices.sync("a", "b")
    server_backup.save()
    devices.write("a", "after the backup")
    devices.write("b", "after the backup")
    devices.sync("a", "b")
    devices.write("a", "just before it is restored")
    server_backup.restore()
    devices.write("b", "just after it was restored")
    devices.sync("a", "b")
    devices.check("a", "b")


def test_a_backup_is_restored_while_nobody_is_there(backup: Backup, begin: Begin) -> None:
    devices = begin(backup.url)
    devices.write("a", "saved")
    devices.write("b", "saved")
    devices.sync("a", "b")
    devices.close()
    backup.save()
    devices.write("a", "after the backup")
    devices.sync("a", "b")
    devices.close()
    backup.restore()
    devices.sync("b", "a")  # The one that has written nothing since.
    devices.check("a", "b")


@pytest.mark.parametrize("writes", [False, True], ids=["only reads", "writes first"])
def test_a_restored_backup_that_grew_past_the_cursors_is_told_by_its_digest(
    backup: Backup, begin: Begin, writes: bool
) -> None:
    """The generation is the same, the log is longer than what the replicas followed: only its content differs."""
    devices = begin(backup.url)
    devices.write("a", "saved")
    devices.write("b", "saved")
    devices.sync("a", "b")
    devices.close()
    backup.save()
    devices.write("a", "after the backup")
    devices.sync("a", "b")
    devices.close()
    backup.restore()
    devices.write("c", "after it was restored", times=10)
    devices.sync("c")
    devices.close()
    if writes:
        devices.write("b", "before it looks")
    devices.sync("b", "a")
    devices.sync("c")
    devices.check("a", "b", "c")


def test_a_backup_is_restored_twice(backup: Backup, begin: Begin) -> None:
    devices = begin(backup.url)
    devices.write("a", "saved")
    devices.sync("a", "b")
    devices.close()
    backup.save()
    for time in ("first", "second"):
        devices.write("a", f"after the {time} time")
        devices.write("b", f"after the {time} time")
        devices.sync("a", "b")
        devices.close()
        backup.restore()
    devices.sync("a", "b")
    devices.check("a", "b")


# Losses


def flush_all(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


def test_replicas_fill_a_redis_that_was_flushed(own_redis: OwnRedis, begin: Begin) -> None:
    server = own_redis()
    devices = begin(server.url)
    devices.write("a", "before")
    devices.sync("a", "b")
    devices.write("b", "before")
    devices.sync("b", "a")
    flush_all(server)
    for name in "ab":
        devices.write(name, "after")
    devices.sync("a", "b")
    devices.check("a", "b")


def test_replicas_that_only_read_notice_that_everything_is_gone(own_redis: OwnRedis, begin: Begin) -> None:
    """The poll finds what no hint tells: the log of a session that nobody writes to any more."""
    server = own_redis()
    devices = begin(server.url)
    devices.write("a", "before")
    devices.sync("a", "b")
    flush_all(server)
    with redis.Redis.from_url(server.url) as client:
        eventually(lambda: len(client.keys("*}:log")) == len(SESSIONS))
    devices.check("a", "b")


def test_two_replicas_fill_it_at_once_also_with_what_a_lost_device_wrote(own_redis: OwnRedis, begin: Begin) -> None:
    server = own_redis()
    devices = begin(server.url)
    for name in ("a", "b", "lost"):
        devices.write(name, "before")
    devices.sync("lost", "a", "b")
    devices.write("lost", "its last words")
    devices.sync("lost", "a", "b")
    devices.forget("lost")
    for name in "ab":
        devices.write(name, "after it was lost")
    devices.sync("a", "b")
    devices.close()
    flush_all(server)
    together = threading.Barrier(2)

    def fill(name: str) -> None:
        together.wait(10)
        devices[name].refresh(30)

    filling = [threading.Thread(target=fill, args=(name,)) for name in "ab"]
    for thread in filling:
        thread.start()
    for thread in filling:
        thread.join(60)
    devices.sync("a", "b")
    devices.check("a", "b")


def test_a_replica_of_redis_takes_over_without_the_last_writes(own_redis: OwnRedis, begin: Begin) -> None:
    primary, standby = own_redis(), own_redis()
    with Proxy(primary.port) as proxy, redis.Redis.from_url(standby.url) as client:
        configure(primary, "repl-diskless-sync-delay", "0")  # Else it waits for more replicas.
        client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))
        eventually(lambda: client.info("replication")["master_link_status"] == "up")
        devices = begin(proxy.url(primary.url))
        devices.write("a", "copied")
        devices.write("b", "copied")
        devices.sync("a", "b")
        eventually(lambda: in_step(primary, client))
        client.execute_command("REPLICAOF", "NO", "ONE")
        devices.write("a", "never copied")
        devices.sync("a", "b")
        devices.write("b", "just before the failover")
        proxy.lead_to(standby.port)
        primary.kill()
        devices.write("a", "after the failover")
        devices.sync("a", "b")
        devices.check("a", "b")
        devices.close()


def configure(server: RedisServer, name: str, value: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set(name, value)


def in_step(primary: RedisServer, standby: Any) -> bool:
    with redis.Redis.from_url(primary.url) as client:
        wanted = client.info("replication")["master_repl_offset"]
    return bool(standby.info("replication")["slave_repl_offset"] >= wanted)
