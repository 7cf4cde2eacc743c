"""Opening a store: all that can be said of how it works."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

from localfirst.keys import Key, KeyRing, key_ring
from localfirst.options import Durability, RemoteLoss, WorkerKind
from localfirst.resolvers import Resolver
from localfirst.secret import Url
from localfirst.store import Store


def open(  # noqa: A001 - localfirst.open() is how it is called
    path: str | os.PathLike[str] | None = None,
    *,
    remote: str | None = None,
    namespace: str = "default",
    worker: WorkerKind = "thread",
    durability: Durability = "normal",
    resolvers: Mapping[str, Resolver] | None = None,
    poll_interval: float = 5.0,
    sync_interval: float = 0.02,
    on_remote_loss: RemoteLoss = "reseed",
    ttl: timedelta | float | None = None,
    item_ttl: timedelta | float | None = None,
    size_limit: int | None = None,
    encryption_key: Key | KeyRing | None = None,
) -> Store:
    """Open the store in a directory, made with mode 0700 if it is missing.

    - `path`: `~` is the home directory. None: `$LOCALFIRST_HOME`, else the platform's directory for user data. One that
      is a symbolic link, belongs to another user, or can be written by others is refused.
    - `remote`: the central store: `redis://`, `rediss://`, `unix://`, `postgresql://` or `file:///directory`; or `@`
      and the path of a file that holds it. None: `$LOCALFIRST_REMOTE`, else there is none; `""`: there is none. A
      server that can't be reached is no error: see `Store.status`.
    - `namespace`: tenant or application. Sessions of different namespaces never meet.
    - `worker`: `"thread"`: sync runs in a thread of its own. `"task"`: on the running asyncio loop. `"none"`: only
      inside `flush`, `refresh` and `close`.
    - `durability`: `"normal"`: a killed process loses nothing, a power cut may lose the last moments. `"full"`: every
      call is on the disk when it returns.
    - `resolvers`: by metadata key or glob (`"tags.*"`), what becomes of writes that did not know of each other: a rule,
      see `Session.set`, or a function. It counts for writes that name no rule of their own. A key's own entry comes
      before globs, and these count in their order. A function is called as `fn(key, mine, theirs, base)` and returns
      the value: `mine` was written here, `theirs` elsewhere, `base` is what was there before both; None: not set. It
      is called once, in the worker's thread, where `mine` was written, if that reached the central store second. What
      it returns is then set here. If it raises, the later write stands. See `docs/metadata.md`.
    - `poll_interval`: seconds between looks at the central store when no hint comes; up to half as many more.
    - `sync_interval`: at most one push in so many seconds; the first write after a quiet time goes at once.
    - `on_remote_loss`: what to do when the central store has lost what it had, or is another one. `"reseed"`: send it
      what is here, and say so (`SessionEvent.REMOTE_LOST`). `"ask"`: stop until `reseed` (the whole store) or `retry`
      (one session) is called.
    - `ttl`: seconds or a timedelta after which a session expires to which nothing is written; `item_ttl`: after which
      each item does. They are written to sessions that are written to here, unless `session()` was given others. None:
      nothing is; `math.inf`: for ever.
    - `size_limit`: bytes of disk, from 1,000,000 on, to which the directory is kept; for moments, while others are
      evicted, it may take more. From 80 % of it on, sessions of which nothing is pending are evicted, the least
      recently used first; the next access fetches them again, and raises `RemoteUnavailable` if that can't be done
      within `hydrate_timeout`. Nothing pending is ever evicted, and nothing while the central store can't be
      reached, or if there is none: at the limit, writes raise `StoreFull` (deleting a session works).
      `SessionEvent.STORE_FILLING` comes before, at 80 %. The process that syncs the directory must be given the
      limit, too. None: no limit.
    - `encryption_key`: a key, or a `KeyRing`: items and metadata are sealed with it before they reach disk or network.
      Whoever shares the sessions needs the same key, also the process that syncs the directory. See
      `docs/encryption.md`.

    Raises `ConfigurationError` for what can't work, whatever the network does.

    >>> import tempfile
    >>> with open(tempfile.mkdtemp()) as store:
    ...     store.session("user-123").add_message("user", "Hello")
    {'role': 'user', 'content': 'Hello'}
    >>> with open(tempfile.mkdtemp(), resolvers={"tags.*": "union"}) as store:
    ...     session = store.session("user-123")
    ...     session.set("tags.user", ["new"]); session.set("tags.user", ["premium"])
    ...     session.get("tags.user")
    ['new', 'premium']
    """
    remote = Url(remote) if isinstance(remote, str) else remote  # Which no traceback shows with its password,
    encryption_key = key_ring(encryption_key)  # nor a key.
    return Store(
        path,
        remote=remote,
        namespace=namespace,
        worker=worker,
        durability=durability,
        resolvers=resolvers,
        poll_interval=poll_interval,
        sync_interval=sync_interval,
        on_remote_loss=on_remote_loss,
        ttl=ttl,
        item_ttl=item_ttl,
        size_limit=size_limit,
        encryption_key=encryption_key,
    )
