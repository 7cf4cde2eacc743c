"""`EncryptedSession`: the SDK's own, over any session, that removes nothing which it can't open."""

from __future__ import annotations

from typing import Any

from agents.extensions.memory import EncryptedSession as SdkEncryptedSession
from agents.memory import SQLiteSession as SdkSQLiteSession
from agents.memory.session import Session as AnySession
from agents.memory.session import _call_session_method, _get_session_wrapper
from cryptography.fernet import InvalidToken

from localfirst import jsonvalue, windows
from localfirst.errors import DecryptionError, MalformedChange, of_session
from localfirst.integrations.openai_agents.advanced import AdvancedSQLiteSession
from localfirst.session import Session


class EncryptedSession(SdkEncryptedSession):
    """Seals items before the session below it, of ours or any other, stores them; reads what the SDK's own has written,
    and the reverse.

    - `session_id`: the keys follow from it. None: that of the session below.
    - `underlying_session`, or `session`: the session below.
    - `encryption_key`: a Fernet key, or any string; it should be random.
    - `ttl`: seconds after which an item is not shown any more.
    - `max_scan_items`: as the SDK's.

    What can't be opened is left out by `get_items`. `pop_item` removes nothing then, and raises `DecryptionError`: with
    a wrong key it would lose the conversation, item by item. Items that came there without being sealed are not shown
    either. One that JSON can't hold raises `InvalidItem`, a TypeError, and nothing is stored.

    >>> from localfirst.integrations.openai_agents import EncryptedSession
    >>> sealed = EncryptedSession(session=session, encryption_key="9Tf2-wNQnV3i8LpZrXeJ5s7uYbGhKdCa")
    >>> asyncio.run(sealed.add_items([{"role": "user", "content": "Hello"}]))
    >>> asyncio.run(sealed.get_items()), "Hello" in str(list(session))
    ([{'role': 'user', 'content': 'Hello'}], False)
    """

    def __init__(
        self,
        session_id: str | None = None,
        underlying_session: AnySession | None = None,
        encryption_key: str = "",
        ttl: int = 600,
        max_scan_items: int | None = None,
        *,
        session: AnySession | None = None,
    ) -> None:
        below = underlying_session if session is None else session
        if below is None or below is not (session if underlying_session is None else underlying_session):
            raise TypeError("EncryptedSession takes one session to keep its items in: underlying_session= or session=")
        named = below.session_id if session_id is None else session_id
        options: Any = {} if max_scan_items is None else {"max_scan_items": max_scan_items}  # Older SDKs lack it.
        super().__init__(named, below, encryption_key, ttl, **options)  # type: ignore[arg-type]

    async def get_items(self, limit: int | None = None, *, wrapper: Any = None) -> list[Any]:
        """The items that can be opened and have not expired, oldest first. `limit`: only the last so many; that of the
        settings cuts between turns if the session below does, and `max_scan_items` is not set."""
        below: Any = self.underlying_session
        own = below._default_limit() if isinstance(below, Session) and below.session_settings is not None else None
        bounded = getattr(self, "max_scan_items", None) is not None
        if own is None or own < 0 or limit not in (None, own) or bounded or not below.whole_turns:
            return await super().get_items(limit, wrapper=wrapper)
        items = await super().get_items(-1, wrapper=wrapper)  # Turns can't be told before they are opened.
        return windows.whole_turns([jsonvalue.encode(item) for item in items], own)

    async def pop_item(self, *, wrapper: Any = None) -> Any | None:
        """Remove the last item that can be opened and return it; None if there is none.

        Raises `DecryptionError` if there is one after it that was sealed with another key, or altered. Nothing is
        removed then. One that expired stays where it is, or goes as well, as the session below has it.
        """
        below: Any = self.underlying_session
        if type(below).pop_item in (Session.pop_item, AdvancedSQLiteSession.pop_item):
            return self._unwrap(await below._pop(self._opens))
        if type(below).pop_item is SdkSQLiteSession.pop_item and hasattr(below, "_pop_item_with_validation"):
            popped = await below._pop_item_with_validation(self._opens)
            while popped is not None and not self._opens(popped):
                popped = await below._pop_item_with_validation(self._opens)
            return self._unwrap(popped)
        return await self._pop_from(below, _get_session_wrapper(below, wrapper))

    async def _pop_from(self, below: AnySession, wrapper: Any) -> Any | None:
        """Of a session that can't be told which item to pop: if another one has come meanwhile, it is put back."""
        while True:
            seen = await _call_session_method(below.get_items, 1, wrapper=wrapper)
            if not seen:
                return None
            self._opens(seen[-1])
            popped = await _call_session_method(below.pop_item, wrapper=wrapper)
            try:
                if self._opens(popped):
                    return self._unwrap(popped)
            except DecryptionError:
                await _call_session_method(below.add_items, [popped], wrapper=wrapper)
                raise

    async def _atomic_replace_items(self, items: list[Any]) -> bool:
        """What the SDK looks for to compact a history in one step; False where the session below can't do that."""
        replace = getattr(type(self.underlying_session), "_atomic_replace_items", None)
        return replace is not None and bool(await replace(self.underlying_session, self._encrypt_items(items)))

    def _opens(self, item: Any) -> bool:
        """Whether it is to be shown. Raises `DecryptionError` for what was not sealed with this key, or altered."""
        if not _is_sealed(item):
            return False
        try:
            self.cipher.extract_timestamp(item["payload"].encode())
        except (InvalidToken, UnicodeEncodeError):
            raise self._sealed() from None
        return self._unwrap(item) is not None

    def _sealed(self) -> DecryptionError:
        what = "its end is sealed with another key, or was altered, and nothing was removed: check encryption_key"
        return DecryptionError(of_session(self.session_id, what))

    def _wrap(self, item: Any) -> Any:
        data = jsonvalue.encode(item.model_dump() if hasattr(item, "model_dump") else item)
        return {"__enc__": 1, "v": self._ver, "kid": self._kid, "payload": self.cipher.encrypt(data).decode()}

    def _unwrap(self, item: Any) -> Any | None:
        if not _is_sealed(item):
            return None
        try:
            return jsonvalue.decode(self.cipher.decrypt(item["payload"].encode(), self.ttl))
        except (InvalidToken, UnicodeEncodeError, MalformedChange):
            return None


def _is_sealed(item: Any) -> bool:
    return isinstance(item, dict) and item.get("__enc__") == 1 and isinstance(item.get("payload"), str)
