"""A Redis (or Valkey) server of our own, with an append-only file so that it survives being killed."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from localfirst.testing.servers.binaries import redis_binary
from localfirst.testing.servers.process import LOOPBACK, ServerProcess

_PROBE_SECONDS = 1.0


class RedisServer(ServerProcess):
    """Redis on loopback; `persistent=False` forgets everything at every stop. `settings` go into its configuration;
    paths in them begin in its `directory`."""

    title: ClassVar[str] = "Redis"

    def __init__(
        self,
        *,
        persistent: bool = True,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
        startup_seconds: float = 30.0,
    ) -> None:
        super().__init__(startup_seconds=startup_seconds)
        self._persistent = persistent
        self._password = password
        self._more = dict(settings or {})
        self._binary = redis_binary()

    @property
    def url(self) -> str:
        credentials = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{credentials}{LOOPBACK}:{self.port}/0"

    def _command(self) -> list[str]:
        # A file rather than arguments, which every user of the machine could read.
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("".join(f"{name} {_quoted(value)}\n" for name, value in self._settings().items()))
        return [str(self._binary), str(config)]

    def _settings(self) -> dict[str, str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes" if self._persistent else "no",
        }
        return settings | ({"requirepass": self._password} if self._password else {}) | self._more

    def _is_ready(self, pid: int) -> bool:
        try:
            answer = self._ask("PING", "INFO server")
        except OSError:
            return False
        found = re.search(rb"process_id:(\d+)", answer)
        return b"+PONG" in answer and found is not None and int(found[1]) == pid

    def _ask(self, *commands: str) -> bytes:
        """The raw replies, read until the server has closed the connection, as QUIT makes it do."""
        words = [command.split() for command in (*commands, "QUIT")]
        login = [["AUTH", self._password]] if self._password else []
        with socket.create_connection((LOOPBACK, self.port), timeout=_PROBE_SECONDS) as connection:
            connection.sendall(b"".join(map(_encoded, [*login, *words])))
            chunks = iter(lambda: connection.recv(65_536), b"")
            return b"".join(chunks)


def _encoded(words: list[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
