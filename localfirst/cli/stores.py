"""How commands open a store: to look at it without disturbing those who use it, or to write to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from platformdirs import user_data_path

import localfirst
from localfirst.cli.exits import NoSession
from localfirst.cli.keys import key_ring
from localfirst.damage import note_file
from localfirst.errors import ConfigurationError
from localfirst.status import SessionInfo
from localfirst.store import Store
from sync import central


def home(path: Path | None) -> Path:
    """The directory that a command means."""
    return Path(path or user_data_path("localfirst")).expanduser().absolute()


@contextmanager
def to_read(path: Path | None, namespace: str) -> Iterator[Store]:
    """A store to look at, which must be there. It knows no central store: whoever closes one that does, syncs it."""
    directory = home(path)
    if not (directory / "data").is_dir() and not note_file(directory / "data").exists():
        raise ConfigurationError(f"there is no store in {directory}: name another by --store or $LOCALFIRST_HOME")
    with closing(open_local(directory, namespace)) as store:
        yield store


@contextmanager
def to_mend(path: Path | None, namespace: str) -> Iterator[Store]:
    """A store to say something of that whoever syncs the directory acts on. It must be there, as for `to_read`."""
    with to_read(path, namespace) as store:
        yield store


@contextmanager
def to_write(path: Path | None, namespace: str) -> Iterator[Store]:
    """A store to write to, made if it is missing. What is written goes up by whoever syncs the directory."""
    with closing(open_local(home(path), namespace)) as store:
        yield store


def open_local(path: Path, namespace: str) -> Store:
    """Open a store without a central store, whatever the environment says."""
    inherited = os.environ.pop("LOCALFIRST_REMOTE", None)
    try:
        return localfirst.open(path, namespace=namespace, worker="none", encryption_key=key_ring())
    finally:
        if inherited is not None:
            os.environ["LOCALFIRST_REMOTE"] = inherited


def describe(remote: str) -> str:
    """A central store's URL as it may be shown. Raises `ConfigurationError` if there is no such store."""
    central.scheme_of(remote)  # Of what is no URL, nobody knows which part is the password.
    return central.describe(remote)


def find(store: Store, session_id: str | None) -> SessionInfo:
    """What is known of one session, or of any. Raises `NoSession`."""
    for info in store.sessions(prefix=session_id or ""):
        if session_id in (None, info.session_id):
            return info
        break  # They come in the order of their ids: the session itself would have been the first.
    named = "session" if session_id is None else f"session {session_id!r}"
    raise NoSession(f"there is no {named} in namespace {store.namespace!r} of {store.path}")


def with_state(info: SessionInfo, *, remote: bool = False) -> SessionInfo:
    """As a store tells it that was opened with its central store; `remote`: there is one."""
    waits = info.pending > 0 and (info.state == "synced" or (remote and info.state == "local"))
    return replace(info, state="pending") if waits else info
