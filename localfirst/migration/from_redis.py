"""Keys of the OpenAI Agents SDK's RedisSession: a list of items, and a hash that tells when it began."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Final

import redis

from localfirst.migration.source import PART, Conversation, Row, only_main
from localfirst.secret import Url
from sync.central.redis.address import connection_pools
from sync.central.redis.errors import translate

_MESSAGES: Final = b":messages"
_TIMEOUTS: Final = {"socket_connect_timeout": 5.0, "socket_timeout": 30.0}
_SPECIAL: Final = re.compile(rb"([*?\[\]\\^])")


class RedisSource:
    """The sessions below one prefix. Reads with SCAN, TYPE, LLEN, LRANGE and HGET alone."""

    def __init__(self, url: Url, key_prefix: str) -> None:
        self._server = connection_pools(url).server  # Of an address that can't be used, this tells what is wrong.
        self.name = self._server.name
        self.kind = f"openai-agents/redis/{key_prefix}"
        self._prefix = key_prefix.encode() + b":"
        with translate(self._server):
            self._redis: Any = redis.Redis.from_url(url, **_TIMEOUTS, decode_responses=False)

    def session_ids(self) -> list[str]:
        """All, in the order of their ids."""
        pattern = _SPECIAL.sub(rb"\\\1", self._prefix) + b"*" + _MESSAGES
        with translate(self._server):
            keys = set(self._redis.scan_iter(match=pattern, count=1000, _type="list"))
        ids = (key[len(self._prefix) : -len(_MESSAGES)] for key in keys)
        return sorted(found.decode(errors="surrogateescape") for found in ids)

    @contextmanager
    def conversation(self, session_id: str) -> Iterator[Conversation]:
        """One of them."""
        key = self._prefix + session_id.encode(errors="surrogateescape")
        with translate(self._server):
            count = self._redis.llen(key + _MESSAGES)
            found = self._redis.hget(key, "created_at") if self._redis.type(key) == b"hash" else None
        created_at = (found or b"").decode(errors="replace")
        known = {"created_at": _in_utc(created_at)} if created_at else {}
        yield Conversation(
            session_id, lambda _: self._rows(key + _MESSAGES), only_main(count), created_at, metadata=known
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _rows(self, key: bytes) -> Iterator[Row]:
        place = 0
        while True:
            with translate(self._server):
                page = self._redis.lrange(key, place, place + PART - 1)
            for data in page:
                yield Row(str(place), data)
                place += 1
            if len(page) < PART:
                return


def _in_utc(written: str) -> str:
    """Seconds since 1970, in ISO 8601; what is none stays what it is."""
    try:
        return datetime.fromtimestamp(float(written), timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):
        return written
