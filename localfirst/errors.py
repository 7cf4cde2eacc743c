"""Every error that users see. The docstring of a class is its default message.

Errors of the libraries underneath (sqlite3, redis, asyncpg) are mapped to these where they are raised, so that a
program which handles `LocalFirstError` has handled all of them.
"""

from __future__ import annotations


class LocalFirstError(Exception):
    """Something went wrong in localfirst."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


def of_session(session_id: str, message: str) -> str:
    """A message that names its session, and does so once.

    >>> of_session("user-123", "it is not taken")
    "session 'user-123': it is not taken"
    >>> of_session("user-123", "session 'user-123' has lost its checkpoint")
    "session 'user-123' has lost its checkpoint"
    """
    named = f"session {session_id!r}"
    return message if named in message else f"{named}: {message}"


class StoreClosed(LocalFirstError, RuntimeError):
    """The store is closed: open it again with localfirst.open()."""


class StoreCorrupt(LocalFirstError):
    """The local store holds something that localfirst did not write. Opened again, it saves what can be read."""


class StoreUnwritable(LocalFirstError, OSError):
    """The local store can't be written; nothing of this call was stored."""


class StoreMoved(StoreUnwritable):
    """The files of the local store are not where they were when it was opened: open it again."""


class StoreFull(LocalFirstError, OSError):
    """There is no space for the local store; nothing of this call was stored."""


class ItemTooLarge(LocalFirstError, ValueError):
    """More than is allowed in one item, key, call or turn; nothing of this call was stored."""


class StoreBusy(LocalFirstError, TimeoutError):
    """Other processes kept the local store locked for too long; nothing of this call was stored."""


class MalformedChange(LocalFirstError, ValueError):
    """A change can't be decoded."""


class DecryptionError(LocalFirstError):
    """Something is sealed with a key that is not here, or was altered. Nothing was removed or overwritten."""

    def __init__(self, message: str | None = None, key_id: str = "") -> None:
        super().__init__(message)
        self.key_id = key_id
        """Of the key that is missing; empty: it is here, so something was altered."""


class SyncTimeout(LocalFirstError, TimeoutError):
    """The central store did not take or give everything in time; nothing is lost, sync goes on."""


class RemoteUnavailable(LocalFirstError, ConnectionError):
    """The central store can't be reached now; it will be tried again."""


class RemoteRejected(LocalFirstError):
    """The central store refused what it was sent."""


class RemoteLost(LocalFirstError):
    """The central store is another one than before, or was emptied. `reseed` sends it what is here."""


class RemoteVersionError(LocalFirstError):
    """The central store was written by a newer localfirst: upgrade this one. Nothing was written to it."""


class SessionDeleted(LocalFirstError):
    """The session was deleted by another replica before what was written here could be sent; that is dropped, too."""


class InvalidItem(LocalFirstError, TypeError):
    """Not something that JSON can hold; nothing of this call was stored."""


class SourceUnreadable(LocalFirstError):
    """What is to be imported can't be read. It stays as it is."""


class ConfigurationError(LocalFirstError, ValueError):
    """localfirst is set up in a way that can't work."""
