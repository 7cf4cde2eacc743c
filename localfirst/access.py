"""How a session object reaches its session: on this disk, once what only the central store has was fetched.

A session that was never here is asked for there at first, one that was evicted whenever it is needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from localfirst.change import Change
from localfirst.errors import of_session
from localfirst.fold import Fold
from localfirst.lifetime import Wish
from localfirst.local import Local
from localfirst.owner import Claim
from localfirst.records import SessionKey
from localfirst.room import Evicted
from localfirst.standing import Standing
from localfirst.turn import turn_of
from localfirst.view import OnBranch, Plan, View
from localfirst.writer import nothing

if TYPE_CHECKING:
    from localfirst.link import Link

T = TypeVar("T")
_RETURNS: Final = 3
"""How often a session is fetched for one call, if it is evicted again at once."""


class Access:
    """Of one object to one session. `soon` is what coroutines call."""

    def __init__(
        self,
        local: Local,
        link: Link | None,
        key: SessionKey,
        session_id: str,
        *,
        hydrate_timeout: float,
        branch: str | None,
        wish: Wish | None,
        claim: Claim | None = None,
    ) -> None:
        self.standing = Standing(local, key, branch)
        self.wish = wish
        """How long the session shall live."""
        self.claim = claim
        """Whose it shall be."""
        self.replicates = link is not None
        """Whether there is a central store."""
        self._local = local
        self._link = link
        self._key = key
        self._session_id = session_id
        self._timeout = hydrate_timeout

    @property
    def view(self) -> View:
        """What this process knows of the session."""
        return self._local.view(self._key, self._session_id)

    def read(self, look: Callable[[Fold], T]) -> T:
        """What a look at the session finds, all of which is here then."""
        return self._whole(partial(self._local.read, self._key, self._session_id, look))

    def read_anew(self, look: Callable[[Fold], T]) -> T:
        """As `read`, of what is on the disk, whatever is in memory."""
        return self._whole(partial(self._local.read_anew, self._key, self._session_id, look))

    async def read_soon(self, look: Callable[[Fold], T]) -> T:
        """As `read`, without blocking the event loop."""
        try:
            return await self._local.read_soon(self._key, self._session_id, look)
        except Evicted:
            return await self._whole_soon(partial(self._local.read_soon, self._key, self._session_id, look))

    def glance(self, look: Callable[[Fold], T]) -> T:
        """What a look at that of the session which is here finds."""
        return self._local.glance(self._key, self._session_id, look)

    def write(self, plan: Plan, *, fresh: bool = False, branch: OnBranch | None = None) -> list[Change]:
        """Make the changes that a plan decides on. `fresh`: it must see the newest state. `branch`: on which; None: the
        one where the object stands."""
        local, branch = self._local, branch or self.branch()
        turn, then = turn_of(local, self._key), nothing
        if local.room is not None:
            local.room.check()
        if self.claim is not None:
            plan, then = self.claim.on(plan, then)
        try:
            wrote = local.write(
                self._key, self._session_id, plan, fresh=fresh, turn=turn, branch=branch, wish=self.wish
            )
        except Evicted:
            write = partial(local.write, self._key, self._session_id, plan, fresh=fresh, turn=turn)
            wrote = self._whole(partial(write, branch=branch, wish=self.wish))
        then()
        return wrote

    async def write_soon(
        self, plan: Plan, *, fresh: bool = False, branch: OnBranch | None = None, then: Callable[[], None] = nothing
    ) -> list[Change]:
        """As `write`, without blocking the event loop. `then` tells of it when it is on disk. Whoever is cancelled
        while it is written is so when that was done."""
        local, standing = self._local, self.standing
        branch = branch or (await self.branch_soon() if standing.unknown else standing.branch())
        turn = turn_of(local, self._key)
        if local.room is not None:
            local.room.check()
        if self.claim is not None:
            plan, then = self.claim.on(plan, then)
        try:
            return await local.write_soon(self._key, self._session_id, plan, fresh, turn, branch, self.wish, then)
        except Evicted:
            write = partial(local.write_soon, self._key, self._session_id, plan, fresh, turn)
            return await self._whole_soon(partial(write, branch, self.wish, then))

    def branch(self) -> OnBranch:
        """Tells, when something is read or written, where the object stands."""
        if self.standing.unknown:
            if self.standing.name is not None:
                self.hydrate()
            self.standing.recall()
        return self.standing.branch()

    async def branch_soon(self) -> OnBranch:
        """As `branch`, without blocking the event loop."""
        if self.standing.unknown:
            if self.standing.name is not None:
                await self.hydrate_soon()
            await self.standing.recall_soon()
        return self.standing.branch()

    def hydrate(self) -> None:
        """Before the first read of a session that was never here: ask the central store, if it can be reached."""
        if self._link is not None:
            self._link.hydrate(self._key, self._session_id, self._timeout)

    async def hydrate_soon(self) -> None:
        """As `hydrate`, without blocking the event loop."""
        if self._link is not None:
            await self._link.hydrate_soon(self._key, self._session_id, self._timeout)

    def follow(self) -> None:
        """Let the session come when another replica writes to it, also if none did yet."""
        if self._link is not None:
            self._local.follow(self._key, self._session_id)

    def _whole(self, call: Callable[[], T]) -> T:
        """What a call gives, for which the session is fetched if it was evicted."""
        for _ in range(_RETURNS):
            try:
                return call()
            except Evicted:
                self._reachable().bring_back(self._session_id, self._timeout)
        return call()

    async def _whole_soon(self, call: Callable[[], Awaitable[T]]) -> T:
        """As `_whole`, without blocking the event loop."""
        for _ in range(_RETURNS):
            try:
                return await call()
            except Evicted:
                await self._reachable().bring_back_soon(self._session_id, self._timeout)
        return await call()

    def _reachable(self) -> Link:
        if self._link is None:
            reason = "it was evicted from this disk: open the store with its central store"
            raise Evicted(of_session(self._session_id, reason))
        return self._link
