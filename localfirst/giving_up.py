"""What somebody gives up of a session that can't be synced. The only code that drops what is pending."""

from __future__ import annotations

import msgspec

from localfirst import volumes
from localfirst.aside import Quarantine
from localfirst.change import EMPTY_DIGEST
from localfirst.identity import Identity
from localfirst.log import Log
from localfirst.records import Aside, Head, Rename, SessionKey


def give_up(log: Log, identity: Identity, quarantine: Quarantine, key: SessionKey) -> bool:
    """Drop what stops a session, and let it go on. False: nothing does.

    push: the changes that the central store refuses. pull: the change that can't be read is passed over. A session that
    the central store has lost is dropped here too.
    """
    asides = [
        aside for direction in ("pull", "push") if (aside := quarantine.get(key, direction)) and not aside.consent
    ]
    for aside in asides:
        if aside.lost:
            _forget(log, identity, key)
            quarantine.release(key, aside.direction)
        elif aside.direction == "pull":
            quarantine.skip(key, aside)
        else:
            _drop_pending(log, key, aside)
            quarantine.release(key, "push")
    return bool(asides)


def _drop_pending(log: Log, key: SessionKey, aside: Aside) -> None:
    """Those changes that are refused. What waits before them keeps its names: the central store may have taken it."""
    while aside.count and (head := log.head(key)) is not None:
        start = head.acked + 1
        drop = frozenset(range(max(start, aside.place), aside.place + aside.count))
        rename = Rename(start, head.origin, head.counter(start), drop)
        if log.settle(key, head, head, rename=rename) is not None:
            return


def _forget(log: Log, identity: Identity, key: SessionKey) -> None:
    """All of a session. Its next change is by another replica: the old history may still come from elsewhere."""
    while (head := log.head(key)) is not None and head.generation is not None:
        last = log.last_slot(key)
        origin = identity.renew(identity.replica_id())
        after = msgspec.structs.replace(
            Head(head.namespace, head.session_id),
            digest=EMPTY_DIGEST,
            epoch=head.epoch,
            volume=volumes.begin(log, key),
            bottom=last + 1,
        )
        rename = Rename(head.bottom + 1, origin, 1, frozenset(range(head.bottom + 1, last + 1)))
        if log.settle(key, head, after, rename=rename) is not None:
            return
