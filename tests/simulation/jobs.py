"""What a process does with the central store: the steps of its worker, as coroutines that are driven by hand."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from localfirst.errors import DecryptionError, LocalFirstError, RemoteLost, RemoteRejected, RemoteUnavailable
from sync.evict import Evictor
from sync.verify import Difference
from tests.simulation.oracle import Violation
from tests.simulation.replica import Process

Job = Callable[[Process], Awaitable[None]]


async def _turn(process: Process, *, poll: bool) -> None:
    worker = process.worker
    if not process.begun:
        await worker._begin()
        process.begun = True
    worker._agenda.look()
    if poll:
        worker._agenda.poll_at = -math.inf
    await worker._attempt(worker._turn)
    await worker._maintain()


async def turn(process: Process) -> None:
    """What the worker does when something was written."""
    await _turn(process, poll=False)


async def poll(process: Process) -> None:
    """What it does now and then."""
    await _turn(process, poll=True)


async def discover(process: Process) -> None:
    """`refresh` of all sessions, those too that are not known here."""
    await process.worker._attempt(process.worker._work.pull_everything)


async def fetch(process: Process, session: str) -> None:
    """`refresh` of one session."""
    await process.worker.fetch(session)


async def alone(process: Process) -> None:
    """What the worker does when the central store can't be reached."""
    async with process.worker._rounds:
        await process.worker._work.expire(alone=True)


async def evict(process: Process, session: str) -> None:
    """What the worker does with a session when the disk is full."""
    evictor = Evictor(process.worker._site, 0)
    evictor._queue.append(process.key(session))
    evictor._scanned_at = math.inf
    async with process.worker._rounds:
        for each in await evictor._confirm():
            await evictor._evict(*each)


async def flush(process: Process) -> None:
    """`flush` of all."""
    await process.worker.flush(once=True)


NAMED: Final[dict[str, Job]] = {"turn": turn, "poll": poll, "discover": discover, "flush": flush, "alone": alone}


async def verify(process: Process, found: list[Difference]) -> None:
    """`verify` of all."""
    worker = process.worker
    await worker._attempt(lambda: worker._work.verify(found, None, full=True), looks=True)


async def guarded(process: Process, job: Job) -> None:
    """A job, which may fail in ways that pass."""
    try:
        await job(process)
    except RemoteUnavailable:
        pass
    except RemoteLost as error:
        if not process.site.ask:
            raise _not_allowed(process, error) from error
    except (RemoteRejected, DecryptionError) as error:
        if not process.worker._asides.stopped and "does not have it now" not in str(error):
            raise _not_allowed(process, error) from error
    except LocalFirstError as error:
        raise _not_allowed(process, error) from error


def _not_allowed(process: Process, error: Exception) -> Violation:
    where = f"directory {process.directory.number}"
    return Violation(9, "sync goes on", f"{where}: {type(error).__name__}: {error}")


def of_session(session: str) -> Job:
    """The job that fetches a session."""
    return partial(fetch, session=session)


def evicting(session: str) -> Job:
    """The job that evicts a session."""
    return partial(evict, session=session)
