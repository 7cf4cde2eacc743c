"""Opening the database of a store, also one that is damaged: it is put aside, and all that can be read is saved.

The broken directory is renamed and kept; nobody here ever deletes it. What can be read is copied into a new database.
A session of which something is missing keeps the changes that were made here, and reads the central log anew: see
`localfirst.holes`. All of it may be cut off anywhere, and is begun again at the next open.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from localfirst import volumes
from localfirst.checkpoint import hash_of
from localfirst.connections import DATABASE, PLACE_SECONDS
from localfirst.damage import Note, evidence, is_name, made_file, note_file, read_note, write_note
from localfirst.diskerrors import file_error
from localfirst.errors import LocalFirstError, StoreCorrupt, StoreMoved
from localfirst.holes import mark_holes, slots_above, unread
from localfirst.identity import HOST, fingerprint
from localfirst.log import Log
from localfirst.private import check_private, make_private, open_private
from localfirst.records import (
    ASIDE,
    CHANGE,
    GARBAGE,
    HEAD,
    KEY_BYTES,
    PAGE,
    PART,
    SETTLED,
    TURN,
    VOLUME_BYTES,
    Head,
    SessionKey,
    digest_after_kept,
    number,
    span,
)
from localfirst.rows import Rows, locked, patiently
from localfirst.status import Recovered
from localfirst.turns import left_open, nobodys_turn
from localfirst.wreck import Found, Wreck

CHECKED_BYTES: Final = 1 << 20
"""A database up to this size is checked as a whole whenever it is opened: a millisecond or three. A larger one is when
the worker leads, once."""
_ROWS_AT_ONCE: Final = 500
_RECOVERED: Final = b"s:recovered"
_GUARD: Final = b"\0"
_NOT_COPIED: Final = {_GUARD, SETTLED, _RECOVERED}

_logger = logging.getLogger("localfirst")


class _Report(msgspec.Struct):
    """What came of it; a row in the new database."""

    aside: str
    at: float
    reason: str
    lost_changes: int = 0
    damaged_rows: int = 0
    incomplete: int = 0
    nameless: int = 0


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Report)


def open_rows(directory: Path, *, fsync: bool = False, told: Callable[[str], None] = lambda _: None) -> Rows:
    """The rows in a directory. `told`: called with what is wrong, if that turns out while they are used."""
    for each in (directory.parent, directory):
        check_private(each)
    note = partial(_note, directory, told)
    if not _needs_care(directory):
        with suppress(StoreCorrupt, StoreMoved):  # It is noted, or was replaced just now.
            rows = Rows(directory, fsync=fsync, on_damage=note)
            try:
                damaged = _is_damaged(rows, note)
            except BaseException:
                rows.close()
                raise
            if not damaged:
                return _made(rows)
            rows.close()
    with locked(directory.with_name(f"{directory.name}.salvage.lock")):
        try:
            _salvage(directory)
        except LocalFirstError:
            raise
        except OSError as error:
            raise file_error(directory, error) from error
    return _made(Rows(directory, fsync=fsync, on_damage=note))


def recovered(rows: Rows) -> Recovered | None:
    """What was salvaged, for as long as the broken directory is there."""
    found = patiently(partial(rows.get, _RECOVERED))
    if found is None:
        return None
    try:
        report = _decoder.decode(found)
        at = datetime.fromtimestamp(report.at, timezone.utc)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError, OSError) as error:
        raise rows.damaged(f"holds a report of what was saved that can't be decoded ({error})") from error
    aside = rows.directory.parent / report.aside if is_name(report.aside) else None
    if aside is not None and not aside.exists():
        return None
    return Recovered(
        path=None if aside is None else str(aside),
        at=at,
        reason=report.reason,
        lost_changes=report.lost_changes,
        damaged_rows=report.damaged_rows,
        incomplete_sessions=report.incomplete,
        nameless_sessions=report.nameless,
    )


def _needs_care(directory: Path) -> bool:
    return note_file(directory).exists() or bool(evidence(directory / DATABASE))


def _is_damaged(rows: Rows, note: Callable[[str], None]) -> bool:
    """Whether something is wrong with it, as far as can be told at once; or another process says so."""
    if rows.size() <= CHECKED_BYTES and (wrong := patiently(rows.check)):
        note(f"{rows.directory} is damaged ({wrong})")
    patiently(partial(rows.range, b"s:", b"s;"))  # What every store reads first.
    return note_file(rows.directory).exists()


def _made(rows: Rows) -> Rows:
    file = made_file(rows.directory)
    if not file.exists():
        try:
            os.close(open_private(file, os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            rows.close()
            raise file_error(rows.directory, error) from error
    return rows


def _note(directory: Path, told: Callable[[str], None], reason: str) -> None:
    if not note_file(directory).exists():
        _logger.error("%s", reason)
        try:
            write_note(directory, Note(reason))
        except OSError as error:
            _logger.warning("%s: this could not be noted (%s); the next who meets it tries again", directory, error)
    told(reason)


# Under the lock.


def _salvage(directory: Path) -> None:
    note = read_note(directory)
    if note is None and (wrong := evidence(directory / DATABASE)):
        note = Note(f"{directory} {wrong}")
    if note is None:
        return  # Another process was faster.
    new, work = directory.with_name(f"{directory.name}.new"), directory.with_name(f"{directory.name}.look")
    for left in (new, work):
        shutil.rmtree(left, ignore_errors=True)  # Copies, of one that was cut off.
    if _is_sound(directory, note.aside):  # Whatever was met was no damage of the disk; or a salvage was all but done.
        note_file(directory).unlink()
        return
    if not note.aside or not (directory.parent / note.aside).exists():
        note = _put_aside(directory, note.reason)
    _build(directory, note, new, work)
    if directory.exists():  # Somebody who opened it meanwhile has made it, and waits for us.
        directory.rename(directory.parent / _free_name(directory))
    new.rename(directory)
    shutil.rmtree(work, ignore_errors=True)
    note_file(directory).unlink()


def _put_aside(directory: Path, reason: str) -> Note:
    note = Note(reason, _free_name(directory))
    aside = directory.parent / note.aside
    write_note(directory, note)
    if directory.exists():
        directory.rename(aside)
    else:
        make_private(aside)
    time.sleep(3 * PLACE_SECONDS)  # Until all processes that have it open know that it was moved.
    return note


def _free_name(directory: Path) -> str:
    base = f"{directory.name}.broken-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    name, count = base, 1
    while (directory.parent / name).exists():
        count += 1
        name = f"{base}-{count}"
    return name


def _is_sound(directory: Path, aside: str) -> bool:
    """Look at all of it. If the broken one was put `aside` already, only what was made of that will do."""
    if not (directory / DATABASE).exists() or evidence(directory / DATABASE):
        return False
    try:
        rows = Rows(directory)
    except StoreCorrupt:
        return False
    try:
        if patiently(rows.check) or not _all_rows_readable(rows):
            return False
        if aside and (directory.parent / aside).exists() and _aside_of(rows) != aside:
            return False  # Somebody who opened it meanwhile has made it, new and empty.
        log = Log(rows)
        heads = {key: log.head(key) for key in _sessions(rows)}
        return all(head is None or is_whole(log, key, head) for key, head in heads.items())
    except StoreCorrupt:
        return False
    finally:
        rows.close()


def _aside_of(rows: Rows) -> str | None:
    found = rows.get(_RECOVERED)
    try:
        return None if found is None else _decoder.decode(found).aside
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _all_rows_readable(rows: Rows) -> bool:
    after = b""
    while found := patiently(partial(rows.range, after, b"\xff" * 64, _ROWS_AT_ONCE)):
        after = found[-1][0] + b"\0"
    return True


def _build(directory: Path, note: Note, new: Path, work: Path) -> None:
    aside = directory.parent / note.aside
    report, missing = _Report(note.aside, time.time(), note.reason), set[bytes]()
    rows = Rows(new)
    try:
        rows.checkpoint()
        make_private(work)
        if (aside / DATABASE).exists():
            wreck = Wreck(aside, work, rows.file)
            _copy(rows, wreck.rows())
            missing = _look_for_missing(rows, wreck)
            report.damaged_rows = max(wreck.damaged, len(missing), int(wreck.unread and not wreck.named_all))
            _keep_place(rows, aside / DATABASE)
        _mend(rows, report, missing)
        rows.put(_RECOVERED, _encode(report))
        rows.checkpoint()
    finally:
        rows.close()
        new_lock = new.with_name(f"{new.name}.lock")
        new_lock.unlink(missing_ok=True)
    _logger.error(
        "%s: what can be read was saved. Missing for certain are %d changes made here; %d damaged rows, %d sessions"
        " incomplete here until they were read from the central store, %d without a name. The broken database is"
        " kept in %s",
        note.reason,
        report.lost_changes,
        report.damaged_rows,
        report.incomplete,
        report.nameless,
        aside,
    )


def _copy(rows: Rows, found: Iterable[Found]) -> None:
    found = iter(found)
    while batch := [row for row in islice(found, _ROWS_AT_ONCE) if row.key not in _NOT_COPIED]:
        rows.restore(batch, once=CHANGE)


def _look_for_missing(rows: Rows, wreck: Wreck) -> set[bytes]:
    """The keys that the broken index names, and whose rows can't be read; those that it helps to find are added."""
    missing = set[bytes]()
    named = iter(wreck.named())
    while batch := dict(islice(named, _ROWS_AT_ONCE)):
        here = {*rows.keys(min(batch), max(batch) + b"\0"), *_NOT_COPIED}
        sought = [(key, rowid) for key, rowid in batch.items() if key not in here]
        found = list(wreck.sought(rowid for _, rowid in sought))
        _copy(rows, filter(None, found))
        missing |= {key for (key, _), row in zip(sought, found, strict=True) if row is None}  # Else the index is wrong.
    return missing


def _keep_place(rows: Rows, before: Path) -> None:
    """The new file is in the place of the old, and no copy of it."""
    if rows.get(HOST) == fingerprint(before).encode():
        rows.put(HOST, fingerprint(rows.file).encode())


def _mend(rows: Rows, report: _Report, missing: set[bytes]) -> None:
    """`missing`: keys of rows that were there."""
    log = Log(rows)
    _drop_garbage(log)
    gone = _slots_of(missing)
    for key in sorted({*_sessions(rows), *gone, *_sessions_of(missing)}):
        head = log.head(key)
        if head is None:
            report.nameless += 1  # It comes back when somebody names it, see `Log.create`.
            report.lost_changes += len(gone.get(key, ()))
            continue
        behind = [slot for slot in gone.get(key, ()) if slot > max(log.last_slot(key), head.bottom)]
        if behind or not is_whole(log, key, head):
            report.incomplete += 1
            report.lost_changes += len(behind) + _read_anew(log, key, head)


def _slots_of(missing: set[bytes]) -> dict[SessionKey, list[int]]:
    """The slots of changes made here that are missing, by session."""
    slots: dict[SessionKey, list[int]] = {}
    for row_key in missing:
        if row_key.startswith(CHANGE) and len(row_key) == 1 + KEY_BYTES + 8:
            slots.setdefault(row_key[1 : 1 + KEY_BYTES], []).append(int.from_bytes(row_key[-8:], "big"))
    return slots


def _sessions_of(missing: set[bytes]) -> set[SessionKey]:
    """The sessions whose heads are missing."""
    return {row_key[1:] for row_key in missing if row_key.startswith(HEAD) and len(row_key) == 1 + KEY_BYTES}


def _sessions(rows: Rows) -> list[SessionKey]:
    """All sessions that have a head, or changes made here."""
    found = {prefix[1:] for kind in (HEAD, CHANGE) for prefix in _prefixes(rows, kind)}
    return sorted(found)


def _prefixes(rows: Rows, kind: bytes) -> set[bytes]:
    return rows.prefixes_since(0, kind, bytes([kind[0] + 1]), 1 + KEY_BYTES)[0]


def _drop_garbage(log: Log) -> None:
    """Volumes that are no session's, because its head was lost or is an older one, are to be removed."""
    length = 1 + KEY_BYTES + VOLUME_BYTES
    for kind in (PAGE, PART):
        for prefix in log.rows.prefixes_since(0, kind, bytes([kind[0] + 1]), length)[0]:
            key, volume = prefix[1 : 1 + KEY_BYTES], prefix[1 + KEY_BYTES :]
            head = log.head(key)
            if head is None or head.volume != volume:
                log.rows.put(GARBAGE + key + volume, b"")


def is_whole(log: Log, key: SessionKey, head: Head) -> bool:
    """Whether everything of a session is here: its changes without a hole, and the central log as far as its head says,
    by digest."""
    base = max(head.bottom, head.slot(head.first) - 1)
    slots = list(slots_above(log.rows, key, base))
    if slots != list(range(base + 1, base + 1 + len(slots))) or base + len(slots) < head.acked:
        return False
    try:
        return _follows(log, key, head)
    except LocalFirstError:
        return False


def _follows(log: Log, key: SessionKey, head: Head) -> bool:
    checkpoint = volumes.checkpoint(log, key, head.volume) if head.floor else None
    if head.floor and not head.stub and (checkpoint is None or hash_of(checkpoint) != head.floor_hash):
        return False
    seq, digest, after = head.floor, head.floor_digest, -1
    while pages := volumes.pages(log, key, head.volume, after):
        for page in pages:
            entries = volumes.entries(log, key, page)
            if [entry.seq for entry in entries] != list(range(seq + 1, seq + 1 + len(entries))):
                return False
            seq, digest = seq + len(entries), digest_after_kept(digest, entries)
        after = pages[-1].first
    return seq == head.seq and digest == head.digest


def _read_anew(log: Log, key: SessionKey, head: Head) -> int:
    """Keep what was made here of a session, and forget what is known of the central log. Returns how many changes made
    here are missing."""
    rows, after = log.rows, unread(head)
    with rows.transaction():
        missing = mark_holes(rows, key, after.bottom)
        changes = [value for value in slots_above(rows, key, after.bottom).values() if value]
        for turn in left_open(changes):
            if rows.get(TURN + key + number(turn)) is None:
                rows.put(TURN + key + number(turn), nobodys_turn())
        for row_key in rows.keys(*span(ASIDE + key)):  # Whatever stopped it is found again.
            rows.delete_range(row_key, row_key + b"\0")
        rows.put(HEAD + key, msgspec.msgpack.encode(after))
        rows.put(GARBAGE + key + head.volume, b"")
    return missing
