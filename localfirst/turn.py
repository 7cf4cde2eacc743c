"""A turn as a session sees it: the calls inside of `with session.turn()`, in the task or thread that entered it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from localfirst.change import END
from localfirst.errors import ConfigurationError
from localfirst.local import Local
from localfirst.plans import always
from localfirst.records import SessionKey
from localfirst.rows import patiently
from localfirst.view import no_turn

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_Place = tuple[int, SessionKey]
_END: Final = always((END, b"{}"))
_active: Final[ContextVar[Mapping[_Place, Turn]]] = ContextVar("localfirst_turns", default=MappingProxyType({}))


class Turn:
    """What is written inside reaches other replicas together. A turn in a turn is part of it."""

    def __init__(self, local: Local, key: SessionKey, session_id: str) -> None:
        self._local = local
        self._key = key
        self._session_id = session_id
        self._outer = False
        self.over = False
        """What comes now is not part of it, also in tasks that were started inside."""
        self._number = 0

    def number(self) -> int:
        """What a change of it is marked with; 0: it is over. Asked under the lock of the session's view, each time that
        the change is tried: so none is marked after the one that ends the turn."""
        if self.over:
            return 0
        turns = self._local.turns
        if not self._number or not turns.is_open(self._key, self._number):  # Given up by others, who took it for dead.
            number = self._local.new_turn()
            turns.open(self._key, number, self._local.owner.name())
            self._number = number
        return self._number

    def _last(self) -> int:
        """The number, for the change that ends it."""
        self.over = False  # It is asked again when another process was faster.
        number, self.over = self.number(), True
        return number

    def __enter__(self) -> Self:
        self._local.check_open()
        active, place = _active.get(), _place(self._local, self._key)
        self._outer = place in active and not active[place].over
        if not self._outer:
            _active.set({**active, place: self})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave() and self._local.turns.is_open(self._key, self._number):
            with self._local.ending(self._key, self._number):
                self._local.write(self._key, self._session_id, _END, turn=self._last)
                patiently(partial(self._local.turns.close, self._key, self._number))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._leave():
            return
        try:
            if await self._local.run_soon(partial(self._local.turns.is_open, self._key, self._number)):
                with self._local.ending(self._key, self._number):
                    await self._local.write_soon(self._key, self._session_id, _END, turn=self._last)
                    await self._local.run_soon(partial(self._local.turns.close, self._key, self._number))
        except asyncio.CancelledError:
            await self._local.run_soon(self._end_after_all)  # Which is finished, however often it is cancelled.
            raise

    def _end_after_all(self) -> None:
        if self._local.turns.is_open(self._key, self._number):
            self._local.turns.end(self._key, self._number)
            if self._local.wrote is not None:
                self._local.wrote()

    def _leave(self) -> bool:
        """Whether something was written that has to be ended."""
        if self._outer:
            return False
        place = _place(self._local, self._key)
        _active.set({other: turn for other, turn in _active.get().items() if other != place})
        self.over = not self._number
        return not self.over


def turn_of(local: Local, key: SessionKey) -> Callable[[], int]:
    """Tells the number of the turn that a write in this context belongs to; 0: of none."""
    active = _active.get()
    turn = active.get(_place(local, key)) if active else None
    return no_turn if turn is None else turn.number


def check_no_turn(local: Local, call: str) -> None:
    """Raise `ConfigurationError` inside of a turn, for calls that would wait for its end."""
    if any(place == id(local) and not turn.over for (place, _), turn in _active.get().items()):
        raise ConfigurationError(f"{call}() inside of turn() would wait for its end: call it after the turn")


def _place(local: Local, key: SessionKey) -> _Place:
    return id(local), key
