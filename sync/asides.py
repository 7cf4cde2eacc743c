"""What of a namespace can't be synced in one direction until somebody acts, and is put aside; all else goes on."""

from __future__ import annotations

import logging
import time
from functools import partial

from localfirst.errors import DecryptionError, LocalFirstError, RemoteRejected, of_session
from localfirst.records import Aside, Direction, Head, SessionKey
from localfirst.version import VERSION
from sync.retry import patiently
from sync.round import Refusal
from sync.site import Site, Stopped

_logger = logging.getLogger("localfirst.sync")


class PutAside(Exception):
    """What was asked for is put aside, because of an error."""

    def __init__(self, error: LocalFirstError) -> None:
        super().__init__(str(error))
        self.error = error


class Asides:
    """The sessions that are put aside, as they are on disk, where any process may put one or let it go on."""

    def __init__(self, site: Site) -> None:
        self.stopped: dict[tuple[SessionKey, Direction], Aside] = {}
        """As of the last `load`."""
        self._site = site

    def load(self) -> list[tuple[SessionKey, Direction]]:
        """What is stopped, as any process or an earlier run left it; returns what may go on since the last look.

        Another version tries again, and whoever has other keys.
        """
        stopped = {}
        for place, aside in self._site.quarantine.all(self._site.namespace).items():
            other_keys = aside.ring and aside.ring != self._site.log.codec(aside.session_id).ring
            if (aside.lost and not self._site.ask) or ((aside.version != VERSION or other_keys) and not aside.lost):
                self._site.quarantine.release(*place)
            elif not aside.consent:
                stopped[place] = aside
        released = [place for place in self.stopped if place not in stopped]
        self.stopped = stopped
        return released

    def free(self, keys: set[SessionKey], direction: Direction) -> set[SessionKey]:
        """Those of some sessions that can be synced in a direction."""
        return {key for key in keys if (key, direction) not in self.stopped}

    def free_to_pull(self, heads: list[tuple[SessionKey, Head]]) -> list[tuple[SessionKey, Head]]:
        """Those of some sessions that can be pulled."""
        return [(key, head) for key, head in heads if (key, "pull") not in self.stopped]

    def check(self, key: SessionKey, direction: Direction) -> None:
        """Raise `PutAside` if a session can't be synced in a direction."""
        if (aside := self.stopped.get((key, direction))) is not None:
            raise PutAside(error_of(aside))

    async def put(self, refused: dict[tuple[SessionKey, Direction], Refusal]) -> None:
        """All at once: who sees one direction of a session stopped, and acts, has seen both."""
        asides: dict[tuple[SessionKey, Direction], Aside] = {}
        for (key, direction), refusal in refused.items():
            if (head := await self._site.head(key)) is not None:
                asides[key, direction] = self._aside(head, direction, refusal)
                if direction == "pull" and (key_id := self._key_lacking(head, refusal.error)):
                    await patiently(partial(self._site.log.lock, key, key_id))
        if asides:
            await patiently(partial(self._site.quarantine.put_all, asides))
        self.stopped |= asides
        for (key, _), aside in asides.items():
            why = [each.direction for (other, _), each in asides.items() if (other, each.reason) == (key, aside.reason)]
            if why[0] == aside.direction:  # Of one reason for both directions it is told once.
                _logger.error("can't be synced (%s): %s", " and ".join(why), aside.reason)
                self._site.tell(Stopped(key, aside))

    def _key_lacking(self, head: Head, error: LocalFirstError) -> str:
        """The key without which a session is closed; empty: it is not. Who has read it so far, with a key, goes on with
        what is here: whoever can write into the central log can name another key there."""
        read = self._site.codec(head).seals and head.seq > 0 and not head.stub
        return error.key_id if isinstance(error, DecryptionError) and not read else ""

    def _aside(self, head: Head, direction: Direction, refusal: Refusal) -> Aside:
        return Aside(
            namespace=head.namespace,
            session_id=head.session_id,
            direction=direction,
            reason=of_session(head.session_id, str(refusal.error)),
            since=time.time(),
            version=VERSION,
            place=refusal.place,
            count=refusal.changes,
            mark=refusal.mark,
            lost=refusal.lost,
            ring=self._site.codec(head).ring if isinstance(refusal.error, DecryptionError) else "",
            key_id=refusal.error.key_id if isinstance(refusal.error, DecryptionError) else "",
        )

    async def stuck(self) -> dict[SessionKey, Refusal]:
        """What of the central store is put aside, and why."""
        asides = await patiently(partial(self._site.quarantine.all, self._site.namespace))
        return {
            key: Refusal(error_of(aside), lost=aside.lost)
            for (key, direction), aside in asides.items()
            if direction == "pull" and not aside.consent
        }


def error_of(aside: Aside) -> LocalFirstError:
    """What to tell who asks for a session that is put aside."""
    return DecryptionError(aside.reason, aside.key_id) if aside.ring else RemoteRejected(aside.reason)
