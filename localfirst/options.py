"""What `localfirst.open` accepts."""

from __future__ import annotations

from typing import Literal

from localfirst.errors import ConfigurationError

WorkerKind = Literal["thread", "task", "none"]
RemoteLoss = Literal["reseed", "ask"]
Durability = Literal["normal", "full"]


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
        raise ConfigurationError(f"namespace must be a string that is not empty and has no NUL, not {namespace!r}")
    if worker not in ("thread", "task", "none"):
        raise ConfigurationError(f'worker is "thread", "task" or "none", not {worker!r}')
    if durability not in ("normal", "full"):
        raise ConfigurationError(f'durability is "normal" or "full", not {durability!r}')
    if on_remote_loss not in ("reseed", "ask"):
        raise ConfigurationError(f'on_remote_loss is "reseed" or "ask", not {on_remote_loss!r}')
    for name, seconds, least in (("poll_interval", poll_interval, 0.001), ("sync_interval", sync_interval, 0.0)):
        if not isinstance(seconds, (int, float)) or not seconds >= least:
            raise ConfigurationError(f"{name} is a number of seconds, {least} or more, not {seconds!r}")
