"""A session that opens its own store, as those of other frameworks do."""

from __future__ import annotations

import os
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from localfirst.errors import StoreClosed
from localfirst.integrations.stores import Borrowed, borrow, home_of, lent
from localfirst.options import milliseconds
from localfirst.session import Session
from localfirst.store import Store

if TYPE_CHECKING:
    from types import TracebackType


class Face(Session):
    """A local-first session with its store. Sessions of one process that name the same place share one.

    `close()` gives the store back; the last one to do so closes it, after what is pending was sent, if that can be
    done. Later calls raise `StoreClosed`, a `RuntimeError`. Sessions that are just dropped leave their store open for
    the next one; when many are left so, those that were used last stay open until the process ends.
    """

    def __init__(
        self,
        session_id: str,
        borrowed: Borrowed,
        *,
        ttl: timedelta | float | None = None,
        session_settings: Any = None,
        whole_turns: bool = False,
    ) -> None:
        self._borrowed = borrowed
        self._finalizer = weakref.finalize(self, borrowed.drop)
        super().__init__(
            borrowed.store,
            session_id,
            session_settings=session_settings,
            whole_turns=whole_turns,
            wish=borrowed.store._wish(milliseconds("ttl", ttl), None),
        )

    @property
    def store(self) -> Store:
        """The store in which the session is, for `status()`, `flush()` and all that is of the store as a whole."""
        return self._store

    def close(self) -> None:
        """Send what is pending if that can be done now, and give the store back. Closing twice is fine."""
        store = self._leave()
        if store is not None:
            store.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        store = self._leave()
        if store is not None:
            await store.aclose()

    def _leave(self) -> Store | None:
        """The store, if it is to be closed."""
        if self._finalizer.detach() is None:  # Another thread may be closing it, too.
            return None
        closed: Any = _Closed(type(self).__name__)
        self._store = self._access = closed
        return self._borrowed.give_back()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(self._store, _Closed):
            super().__exit__(kind, error, trace)
            Face.close(self)  # In some it is a coroutine.

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(self._store, _Closed):
            await super().__aexit__(kind, error, trace)
            await self.aclose()


class _Closed:
    """What a session that was closed has in the place of its store: whatever it is asked raises."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, _: str) -> NoReturn:
        raise StoreClosed(f"{self._name} is closed: make another one")

    def __repr__(self) -> str:
        return "a store that was given back"


def place(
    path: str | os.PathLike[str] | None, remote: str | None, namespace: str, store: Store | None = None
) -> Borrowed:
    """The store that is meant: one that is open already, or the one in a directory; None: that of the central store."""
    if store is not None:
        return lent(store)
    return borrow(home_of(remote or "") if path is None else path, remote=remote, namespace=namespace)
