"""How the life of a session ends on this disk: it expired, or was deleted. What is written later begins another.

A life is a generation of the central store; before a session was ever there, it has one all the same. What is dropped
is dropped by one small transaction, and swept from the disk later, see `localfirst.volumes.sweep`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from localfirst.change import BEGIN, MAIN_BRANCH, TOUCH, Change, decode_change, derived_id, may_be_touch
from localfirst.clock import CentralTime, unpack_ms
from localfirst.codec import Codec
from localfirst.lifetime import FOR_EVER, Lifetime, Wish, decode_touch, encode_touch
from localfirst.log import Log
from localfirst.records import Head, SessionKey, number
from localfirst.renumber import renumber


def ttl_set_by(codec: Codec, changes: Sequence[bytes]) -> int | None:
    """The ttl that changes (wire bytes) set last, milliseconds; None: they set none."""
    found = None
    for wish in _wishes(codec, changes):
        found = found if wish.ttl is None else wish.ttl
    return found


def touched(codec: Codec, lifetime: Lifetime, changes: Sequence[bytes]) -> Lifetime:
    """What is set for a session after changes (wire bytes)."""
    for wish in _wishes(codec, changes):
        lifetime = wish.applied(lifetime)
    return lifetime


def _wishes(codec: Codec, changes: Sequence[bytes]) -> Iterator[Wish]:
    if not may_be_touch(b"".join(changes)):  # As nearly always: one look at all of them is quicker.
        return
    for data in filter(may_be_touch, changes):
        change = codec.decode(data)
        if change.kind == TOUCH:
            yield decode_touch(change.body)


def last_life(log: Log, key: SessionKey, head: Head, time: CentralTime, *, deleted: bool = False) -> int:
    """The slot at which what is pending begins that has not expired; one behind the last if all has.

    Pending changes renew each other, until there is one that says that its author began anew. `deleted`: so was what
    is pending before that, and what had been sent.
    """
    last = log.last_slot(key)
    newest = log.change(key, last)
    if head.ttl and (newest is None or time.of(unpack_ms(decode_change(newest).time)) + head.ttl <= time.now()):
        return last + 1
    begins = last + 1 if deleted else head.acked + 1
    for slot, data in enumerate(log.run(key, head.acked, 1 << 62), start=head.acked + 1):
        if data and decode_change(data).kind == BEGIN:
            begins = slot + 1
    return max(begins, head.sent + 1) if deleted else begins


def is_spent(log: Log, key: SessionKey, head: Head, time: CentralTime, *, alone: bool) -> bool:
    """Whether all that is here of a session has expired, as far as that can be told without the central store.

    `alone`: that one can't be asked, so what it told last counts. What still waits for it is its to judge.
    """
    if head.ending or not head.ttl:
        return False
    last = log.last_slot(key)
    if last > head.acked:
        return head.generation is None and last_life(log, key, head, time) > last
    return alone and head.generation is not None and 0 < head.expires_at <= time.now()


def end_life(log: Log, key: SessionKey, head: Head, *, keep: int | None = None, ending: str = "") -> Head | None:
    """End the life of a session. What is pending from slot `keep` on begins the next one; None: nothing does.

    `ending`: the life that is to be deleted in the central store, too. Returns the new head; None, and nothing is done,
    if `head` is not the session's any more.
    """
    with log.rows.transaction():
        if log.head(key) != head:
            return None
        mark = log.last_slot(key) + 1
        origin = derived_id(head.origin, number(mark))
        kept = [] if keep is None else _renamed(log, key, head, keep, origin)
        after = Head(
            head.namespace,
            head.session_id,
            origin=origin,
            offset=mark,
            store=head.store,
            acked=mark,
            epoch=head.epoch + 1,
            bottom=mark,
            lifetime=head.lifetime if kept else FOR_EVER,
            ending=ending,
        )
        return log.restart(key, head, after, kept)


def _renamed(log: Log, key: SessionKey, head: Head, keep: int, origin: str) -> list[Change]:
    codec = log.codec(head.session_id)
    changes = [codec.decode(data) for data in log.run(key, keep - 1, 1 << 62) if data]
    if not changes:
        return []
    restated = head.lifetime != FOR_EVER
    renamed = renumber(changes, origin, 1 + restated, changes[0].counter - 1)
    if restated:  # What was set in the life before: the next one shall expire, too.
        body = encode_touch(Wish(*head.lifetime))
        renamed.insert(0, Change(origin, 1, changes[0].time, 0, MAIN_BRANCH, TOUCH, body))
    return renamed
