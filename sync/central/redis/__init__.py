"""The central store on Redis or Valkey: one list and one hash per session, one Lua script per operation."""

from sync.central.redis.store import RedisStore

__all__ = ["RedisStore"]
