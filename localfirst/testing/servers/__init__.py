"""Real Redis and Postgres servers for tests and demos, started from whatever binaries are at hand.

    with RedisServer() as redis:
        ...  # redis.url; redis.kill(); redis.restart() keeps port and data

They are servers to experiment on: they listen on loopback only and their data goes when they are closed.
"""

from localfirst.testing.servers.binaries import BinaryNotFoundError, postgres_bin_dir, redis_binary
from localfirst.testing.servers.databases import fresh_database
from localfirst.testing.servers.external import (
    ExternalServer,
    Server,
    postgres_from_environment,
    redis_from_environment,
)
from localfirst.testing.servers.postgres import PostgresServer
from localfirst.testing.servers.process import ServerError, ServerProcess
from localfirst.testing.servers.redis import RedisServer

__all__ = [
    "BinaryNotFoundError",
    "ExternalServer",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerError",
    "ServerProcess",
    "fresh_database",
    "postgres_bin_dir",
    "postgres_from_environment",
    "redis_binary",
    "redis_from_environment",
]
