"""`localfirst sync`: the worker as a process of its own, for systemd or as a sidecar; or one sync, for cron."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

import localfirst
from localfirst.cli import stores
from localfirst.cli.exits import Exit, standing
from localfirst.cli.interrupts import interruptible
from localfirst.cli.keys import key_ring
from localfirst.cli.options import AsJson, Namespace, Remote, StorePath, checked_remote
from localfirst.cli.output import console, count, in_quarantine, print_error, print_json
from localfirst.cli.status import line
from localfirst.errors import DecryptionError, RemoteRejected
from localfirst.options import RemoteLoss
from localfirst.status import StoreStatus

_LOOK_SECONDS = 0.2


class OnLoss(str, Enum):
    """`RemoteLoss`, as options are made."""

    RESEED = "reseed"
    ASK = "ask"


def sync(
    store: StorePath = None,
    remote: Remote = None,
    namespace: Namespace = "default",
    once: Annotated[bool, typer.Option("--once", help="Send what is pending, fetch what is new, and exit.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0, help="How long --once may take, or the last flush at the end."
        ),
    ] = 30.0,
    on_loss: Annotated[
        OnLoss,
        typer.Option(
            "--on-remote-loss",
            help="When the central store has lost what it had, or is another one: send it what is here, or stop until"
            " `localfirst reseed` (or `quarantine retry`, for one session).",
        ),
    ] = OnLoss.RESEED,
    size_limit: Annotated[
        int | None,
        typer.Option(
            "--size-limit",
            metavar="BYTES",
            show_default=False,
            help="Evict sessions that are in the central store when the directory takes more than 80 % of this.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sync a store with its central store until SIGINT or SIGTERM.

    Applications on the same directory open it with worker="none", or with a worker of their own, which then waits for
    this process to end. Every change of state is told on one line. Exits with 3 when changes are left at the end that
    could go; they stay in the store and go up the next time.
    """
    url, loss = checked_remote(remote), _loss(on_loss)
    if once:
        with interruptible():
            _sync_once(stores.home(store), url, namespace, timeout, loss, size_limit, as_json)
    else:
        _sync_on(stores.home(store), url, namespace, timeout, loss, size_limit, as_json)


def _loss(chosen: OnLoss) -> RemoteLoss:
    return "ask" if chosen is OnLoss.ASK else "reseed"


def _sync_once(
    path: Path, remote: str, namespace: str, timeout: float, loss: RemoteLoss, limit: int | None, as_json: bool
) -> None:
    opened = localfirst.open(
        path,
        remote=remote,
        namespace=namespace,
        worker="none",
        on_remote_loss=loss,
        size_limit=limit,
        encryption_key=key_ring(),
    )
    deadline = time.monotonic() + timeout
    try:
        refused = _refusal_of(lambda: opened.flush(timeout))
        refused = _refusal_of(lambda: opened.refresh(max(0.1, round(deadline - time.monotonic(), 1)))) or refused
        found = opened.status()
    finally:
        opened.close(timeout=1.0)  # It was tried for long enough.
    if refused is not None and not found.quarantined:
        raise refused
    if as_json:
        print_json(found)
    elif not found.quarantined:
        typer.echo(f"in sync with {found.remote}")
    if found.quarantined:
        print_error(f"in sync with {found.remote} but for {in_quarantine(found.quarantined)}")
    raise typer.Exit(standing(quarantined=found.quarantined))


def _refusal_of(call: Callable[[], None]) -> RemoteRejected | DecryptionError | None:
    """What one session ends a call with, after all others were synced."""
    try:
        call()
    except (RemoteRejected, DecryptionError) as error:
        return error
    return None


def _sync_on(
    path: Path, remote: str, namespace: str, timeout: float, loss: RemoteLoss, limit: int | None, as_json: bool
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stop = _until_signalled()
    opened = localfirst.open(
        path,
        remote=remote,
        namespace=namespace,
        on_remote_loss=loss,
        size_limit=limit,
        encryption_key=key_ring(),
    )
    try:
        _tell_changes(opened, stop, as_json)
    finally:
        opened.close(timeout)
    with stores.to_read(path, namespace) as left:
        found = left.status()
    pending = found.pending_changes - found.quarantined_changes
    if pending:
        waiting = count(pending, "change")
        print_error(f"stopped with {waiting} pending; what is pending stays in {path} and goes up at the next sync")
    elif found.quarantined:
        print_error(f"stopped in sync but for {in_quarantine(found.quarantined)}")
    raise typer.Exit(standing(quarantined=found.quarantined, wrong=Exit.NOT_SYNCED if pending else Exit.OK))


def _until_signalled() -> threading.Event:
    """Set by the first SIGINT or SIGTERM; a second one of the same kind ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def _tell_changes(store: localfirst.Store, stop: threading.Event, as_json: bool) -> None:
    """One line whenever the state changes, and whenever changes begin to wait or no longer do."""
    out = console()
    told: tuple[object, ...] = ()
    while not stop.is_set():
        status = store.status()
        news = _news(status)
        if news != told:
            told = news
            if as_json:
                print_json(status)
            else:
                out.print(line(status))
            out.file.flush()  # Whoever reads the other end of a pipe waits for this.
        stop.wait(_LOOK_SECONDS)


def _news(status: StoreStatus) -> tuple[object, ...]:
    return status.state, status.last_error, status.leader, status.pending_changes == 0, status.quarantined
