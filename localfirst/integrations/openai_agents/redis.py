"""`RedisSession`: sessions on local disk, with a Redis server as their central store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from typing_extensions import Self

from localfirst.errors import ConfigurationError, LocalFirstError, StoreClosed
from localfirst.integrations.face import place
from localfirst.integrations.openai_agents.base import AgentsSession, Settings
from localfirst.integrations.openai_agents.redis_address import of_client, with_options
from localfirst.secret import Url

KEY_PREFIX: Final = "agents:session"


class RedisSession(AgentsSession):
    """In the place of the SDK's session in Redis: what it writes is on disk when a call returns, and in Redis soon.

    - `redis_client`: a client of redis-py, sync or async, of one server. It is asked for the server's address, user and
      certificates, and neither used nor closed. An address will do, too.
    - `key_prefix`: another one than the usual one is another namespace, of this name, and so other data.
    - `ttl`: seconds or a timedelta after which the session expires if nothing is written to it.
    - `session_settings`: the SDK's, or a dict.
    - `path`: the directory of the store. None: one for each server, see `$LOCALFIRST_HOME`.
    - `whole_turns`: the limit of the settings cuts between turns, see `localfirst.Session.get_items`.

    Raises `ConfigurationError`, also for a client of a cluster or of Sentinel.
    """

    def __init__(
        self,
        session_id: str,
        *,
        redis_client: Any,
        key_prefix: str = KEY_PREFIX,
        ttl: timedelta | float | None = None,
        session_settings: Settings = None,
        path: str | os.PathLike[str] | None = None,
        whole_turns: bool = False,
    ) -> None:
        remote = with_options(redis_client, {}) if isinstance(redis_client, str) else of_client(redis_client)
        borrowed = place(path, remote, _namespace_of(key_prefix))
        super().__init__(session_id, borrowed, ttl=ttl, session_settings=session_settings, whole_turns=whole_turns)

    @classmethod
    def from_url(
        cls,
        session_id: str,
        *,
        url: str,
        redis_kwargs: Mapping[str, Any] | None = None,
        session_settings: Settings = None,
        **kwargs: Any,
    ) -> Self:
        """A session by the address of its server: `redis://`, `rediss://` or `unix://`.

        `redis_kwargs`: what a client would be given besides; of it, the user, the database and the certificates count.
        `kwargs`: as for the class. Raises `ConfigurationError`.
        """
        url = with_options(Url(url), redis_kwargs or {})
        return cls(session_id, redis_client=url, session_settings=session_settings, **kwargs)

    async def ping(self, timeout: float = 5.0) -> bool:
        """Whether Redis can be reached, and takes and gives what it should, within so many seconds."""
        try:
            await self.arefresh(timeout)
        except StoreClosed:
            raise
        except LocalFirstError:
            return False
        return True

    async def close(self) -> None:  # type: ignore[override]
        """As `aclose`."""
        await self.aclose()


def _namespace_of(key_prefix: str) -> str:
    if key_prefix in ("", "default"):
        raise ConfigurationError(f"key_prefix {key_prefix!r} can't name a namespace of its own: take another one")
    return "default" if key_prefix == KEY_PREFIX else key_prefix
