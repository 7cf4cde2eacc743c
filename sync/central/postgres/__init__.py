"""The central store in Postgres: a few readable tables and two functions, in the schema `localfirst` of a database."""

from sync.central.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
