"""The Lua scripts beside this module, as commands."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final

Word = str | bytes | int
Command = tuple[Word, ...]

RUN: Final = "EVALSHA"


class Script:
    """A script that the server knows by the SHA-1 of its source."""

    def __init__(self, *parts: str) -> None:
        folder = files(__package__)
        self._source = b"".join((folder / part).read_bytes() for part in parts)
        self._sha = sha1(self._source, usedforsecurity=False).hexdigest()

    def call(self, keys: tuple[str, ...], *arguments: Word) -> Command:
        """The command that runs it."""
        return (RUN, self._sha, len(keys), *keys, *arguments)

    def load(self) -> Command:
        """The command that makes it known to the server."""
        return ("SCRIPT", "LOAD", self._source)


IDENTIFY: Final = Script("identify.lua")
PUSH: Final = Script("session.lua", "push.lua")
PULL: Final = Script("session.lua", "pull.lua")
HEADS: Final = Script("session.lua", "heads.lua")
CHECKPOINT: Final = Script("session.lua", "checkpoint.lua")
PUT_CHECKPOINT: Final = Script("session.lua", "put_checkpoint.lua")
DELETE: Final = Script("session.lua", "delete.lua")
UNLIST: Final = Script("unlist.lua")
ALL: Final = (IDENTIFY, PUSH, PULL, HEADS, CHECKPOINT, PUT_CHECKPOINT, DELETE, UNLIST)
