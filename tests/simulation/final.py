"""What holds at the end, when everything has healed."""

from __future__ import annotations

from functools import partial
from typing import Any

from localfirst import jsonvalue
from localfirst.change import APPEND, Admitted, Change
from localfirst.errors import MalformedChange
from localfirst.fold import VOID, Fold
from localfirst.fold import check as fold_check
from localfirst.records import GARBAGE, KEY_BYTES, VOLUME_BYTES, session_key, span
from sync.verify import Difference
from tests.simulation import jobs
from tests.simulation.healing import run
from tests.simulation.holdings import held_here
from tests.simulation.lives import SLACK
from tests.simulation.oracle import Violation
from tests.simulation.replica import Directory
from tests.simulation.server import NAMESPACE
from tests.simulation.universe import Universe
from tests.simulation.watch import shown
from tests.simulation.world import WORLD


def check(universe: Universe) -> None:
    """All of it."""
    for directory in universe.directories:
        for session in universe.sessions:
            universe.watch.check(directory, session, at_end=True)
    for session in universe.sessions:
        _check_session(universe, session)
    for directory in universe.directories:
        _verified(universe, directory)
        if universe.lives is not None:
            _nothing_left(universe, directory)


def _stopped(universe: Universe, session: str) -> list[Directory]:
    """The directories in which a session is stopped."""
    return [
        directory
        for directory in universe.directories
        if any(aside.session_id == session for aside in directory.quarantine.all("default").values())
    ]


def _check_session(universe: Universe, session: str) -> None:
    stopped = _stopped(universe, session)
    well = [directory for directory in universe.directories if directory not in stopped]
    times = universe.server.times(session)
    _nothing_lost(universe, session, times, stopped)
    for directory in stopped:
        _still_pushed(universe, directory, session, times)
    if session in universe.oracle.poisoned and stopped:
        return
    if universe.lives is not None and _is_over(universe, session, well):
        return
    if session not in universe.server.sessions:
        return
    truth = _folded(universe, session)
    for directory in well:
        _agrees(universe, directory, session, truth)
    _shows(universe, session, truth, times)


def _agrees(universe: Universe, directory: Directory, session: str, truth: Fold) -> None:
    """Whether a directory shows what is in the central log."""
    now = universe.server.now() + SLACK if universe.lives is not None else 0
    fold = directory.view(session).refresh()
    fresh = directory.fresh_view(session).refresh()
    where = f"directory {directory.number} session {session}"
    if shown(fold, now) != shown(fresh, now):
        raise Violation(3, "the same log shows the same", f"{where}: {shown(fold)}, read anew {shown(fresh)}")
    if fold.pending:
        raise Violation(9, "sync goes on", f"{where} has {fold.pending} changes left that nothing stops")
    if shown(fold, now) != shown(truth, now):
        raise Violation(3, "the same log shows the same", f"{where}: {shown(fold)}, central log: {shown(truth)}")


def _is_over(universe: Universe, session: str, well: list[Directory]) -> bool:
    """Whether a session is not there any more, for all to see; or just about to be."""
    found = universe.server.alive(session)
    if found is not None:
        return bool(0 < found.expires_at <= universe.server.now() + SLACK)
    for directory in well:
        fold, head = directory.view(session).refresh(), directory.head(session)
        if head is not None and (head.generation is not None or fold.pending or fold.each_item()):
            raise Violation(6, "nothing comes back", f"directory {directory.number} has {session}, which is over")
    return True


def _nothing_left(universe: Universe, directory: Directory) -> None:
    """No byte of what was in a life that ended is on disk, but for volumes that nobody finished."""
    assert universe.lives is not None
    rows = directory.disk.rows
    making = {row[1:] for row in directory.disk.span(*span(GARBAGE))}
    kept = b"".join(row.value for key, row in rows.items() if key[1 : 1 + KEY_BYTES + VOLUME_BYTES] not in making)
    for session in universe.sessions:
        if directory in _stopped(universe, session):
            continue
        head = directory.head(session)
        for time in universe.lives.ended(session) - universe.server.times(session) if head else ():
            record = universe.oracle.records.get(time)
            if record is None or record.kind != APPEND:
                continue
            left = [item for item in record.items if item in kept]
            if left:
                where = f"directory {directory.number} session {session}"
                raise Violation(6, "nothing is left of what ended", f"{where}: {left}")


def _nothing_lost(universe: Universe, session: str, times: set[int], stopped: list[Directory]) -> None:
    waiting: set[int] = set()
    for directory in stopped:
        head = directory.head(session)
        if head is not None:
            waiting |= held_here(directory.disk, session, head, universe.ledger, universe.oracle)
    ended = set() if universe.lives is None else universe.lives.ended(session)
    for record in universe.oracle.by_session[session]:
        if record.time not in times | waiting | ended and not universe.oracle.is_excused(record):
            raise Violation(1, "what was told is kept", f"session {session}: {record} is nowhere in the central log")


def _still_pushed(universe: Universe, directory: Directory, session: str, times: set[int]) -> None:
    """What can't be read stops no push, unless the log has to be read first: after a loss, in copies, and when an
    answer was lost to what is folded since."""
    head = directory.head(session)
    aside = directory.quarantine.get(session_key(NAMESPACE, session), "push")
    if head is None or universe.oracle.copied or universe.oracle.losses[session]:
        return
    if aside is not None and (aside.count or universe.server.sessions[session].checkpoint):
        return
    if aside is not None:
        raise Violation(9, "sync goes on", f"directory {directory.number} session {session}: {aside.reason}")
    left = universe.watch.pending(directory, session, head) - times
    if left:
        raise Violation(9, "sync goes on", f"directory {directory.number} session {session} was not pushed: {left}")


def _folded(universe: Universe, session: str) -> Fold:
    found = universe.server.sessions[session]
    fold = WORLD.vault.codec(session).decode_state(found.checkpoint.data).fold if found.checkpoint else Fold()
    fold.admit([Admitted(entry.seq, entry.admitted_at, _readable(universe, entry.data)) for entry in found.log])
    return fold


def _readable(universe: Universe, data: bytes) -> Change:
    """The change in bytes, or what stands for one that was given up."""
    change = universe.ledger.change(data)
    try:
        if change is not None:
            fold_check(change)
    except MalformedChange:
        return VOID
    return change or VOID


def _shows(universe: Universe, session: str, truth: Fold, times: set[int]) -> None:
    seen = {item.data for item in truth.items}
    expected = universe.oracle.expected(session, times)
    if universe.oracle.is_confused(session):
        return
    if universe.lives is not None:
        lives = universe.lives
        leave = lives.expired_items(session) | lives.items_again()
        seen, expected = seen - leave, expected - leave
        seen |= expected & lives.unseen_items(session)
    _branches_show(universe, session, truth, times)
    if seen - expected:
        raise Violation(6, "nothing comes back", f"session {session} shows {seen - expected}, which was taken away")
    if expected - seen:
        raise Violation(1, "what was told is kept", f"session {session} does not show {expected - seen}")
    if universe.ledger.merged:
        return  # Values of two lost histories: the later one stands.
    values = universe.oracle.expected_values(session, times)
    for key, name in (("count", "count"), ("max", "greatest"), ("union", "union")):
        found = _value(truth, key)
        found = set(found) if isinstance(found, list) else found
        if found != values[name] and (found or values[name]):
            raise Violation(2, "each counts once", f"session {session}: {key} is {found}, not {values[name]}")


def _branches_show(universe: Universe, session: str, truth: Fold, times: set[int]) -> None:
    expected = universe.oracle.expected_on(session, times)
    shown = {line.time: line for line in truth.branches.shown() if line.time}
    if shown.keys() != expected.keys():
        raise Violation(15, "branches", f"session {session} has {shown.keys()}, not {expected.keys()}")
    for time, (must, may) in expected.items():
        seen = {item.data for item in shown[time].history.items}
        if seen - may or (must - seen and not universe.ledger.merged):
            where = f"session {session} branch {shown[time].name} ({time})"
            raise Violation(15, "branches", f"{where} shows {seen - may}, and not {must - seen}")


def _value(fold: Fold, key: str) -> Any:
    register = fold.metadata.get(key)
    return None if register is None or register.value is None else jsonvalue.decode(register.value)


def _verified(universe: Universe, directory: Directory) -> None:
    found: list[Difference] = []
    run(universe, directory.processes[0], partial(jobs.verify, found=found))
    for difference in found:
        stopped = _stopped(universe, difference.session_id)
        if difference.problem and directory not in stopped and difference.session_id not in universe.oracle.poisoned:
            raise Violation(14, "verify finds nothing", f"directory {directory.number}: {difference}")
