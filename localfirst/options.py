"""What `localfirst.open` accepts."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final, Literal

from localfirst.errors import ConfigurationError
from localfirst.limits import MAX_NAMESPACE_BYTES

WorkerKind = Literal["thread", "task", "none"]
RemoteLoss = Literal["reseed", "ask"]
Durability = Literal["normal", "full"]

MOST_SECONDS: Final = 100 * 365 * 86_400
"""The longest time to live that is not for ever."""

LEAST_BYTES: Final = 1_000_000
"""The least limit of disk space."""


def milliseconds(name: str, value: object) -> int | None:
    """A time to live in whole milliseconds; 0: for ever; None: not said. Raises `ConfigurationError`.

    >>> milliseconds("ttl", timedelta(hours=1)), milliseconds("ttl", 0.5), milliseconds("ttl", math.inf)
    (3600000, 500, 0)
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
        raise ConfigurationError(f"{name} is a number of seconds above 0, or a timedelta, not {value!r}")
    if seconds == math.inf:
        return 0
    if seconds > MOST_SECONDS:
        raise ConfigurationError(f"{name} is too long: pass math.inf for ever")
    return max(1, round(seconds * 1000))


def length(name: str, value: object) -> timedelta:
    """A length of time, 0 or more. Raises `ConfigurationError`.

    >>> length("idle_for", 1.5)
    datetime.timedelta(seconds=1, microseconds=500000)
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds <= MOST_SECONDS:
        raise ConfigurationError(f"{name} is a number of seconds, 0 or more, or a timedelta, not {value!r}")
    return timedelta(seconds=seconds)


def check_size_limit(size_limit: object) -> None:
    """Raise `ConfigurationError` for what no directory can be kept to."""
    if size_limit is None or (isinstance(size_limit, int) and size_limit >= LEAST_BYTES):
        return
    raise ConfigurationError(f"size_limit is a number of bytes, {LEAST_BYTES:,} or more, not {size_limit!r}")


def _check_unicode(namespace: str) -> None:
    try:
        size = len(namespace.encode())
    except UnicodeEncodeError:
        raise ConfigurationError("a namespace can't hold lone surrogates: it must be valid Unicode") from None
    if size > MAX_NAMESPACE_BYTES:
        raise ConfigurationError(f"a namespace has at most {MAX_NAMESPACE_BYTES} bytes in UTF-8, this has {size:,}")


def check_options(
    remote: object,
    namespace: object,
    worker: object,
    durability: object,
    poll_interval: object,
    sync_interval: object,
    on_remote_loss: object,
) -> None:
    """Raise `ConfigurationError` for an option that can't work."""
    if not isinstance(remote, (str, type(None))):
        raise ConfigurationError(f"remote is the URL of a central store, not a {type(remote).__name__}")
    if not isinstance(namespace, str) or not namespace or "\0" in namespace:
        raise ConfigurationError(f"namespace must be a string that is not empty and has no NUL, not {namespace!r:.200}")
    _check_unicode(namespace)
    if worker not in ("thread", "task", "none"):
        raise ConfigurationError(f'worker is "thread", "task" or "none", not {worker!r}')
    if durability not in ("normal", "full"):
        raise ConfigurationError(f'durability is "normal" or "full", not {durability!r}')
    if on_remote_loss not in ("reseed", "ask"):
        raise ConfigurationError(f'on_remote_loss is "reseed" or "ask", not {on_remote_loss!r}')
    for name, seconds, least in (("poll_interval", poll_interval, 0.001), ("sync_interval", sync_interval, 0.0)):
        if not isinstance(seconds, (int, float)) or not seconds >= least:
            raise ConfigurationError(f"{name} is a number of seconds, {least} or more, not {seconds!r}")
