"""A store for a FastAPI application, and a session for a request: `pip install 'localfirst[fastapi]'`.

app = FastAPI(lifespan=lifespan("agent-data", worker="task"))
UserSession = Annotated[localfirst.Session, Depends(session_for("user"))]

@app.post("/users/{user}/messages")
async def say(session: UserSession, message: Message): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from localfirst.change import check_session_id
from localfirst.errors import ConfigurationError
from localfirst.integrations.shared import of_extra
from localfirst.opening import open as open_store
from localfirst.session import Session
from localfirst.store import Store

with of_extra("fastapi"):
    from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Path, Query
    from fastapi.requests import HTTPConnection

_PARAMETERS: Final[dict[str, Callable[..., Any]]] = {"cookie": Cookie, "header": Header, "path": Path, "query": Query}


def lifespan(*arguments: Any, **options: Any) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What opens a store as the application starts, and closes it as it ends, after what is pending was sent.

    Takes what `localfirst.open` takes; it opens and closes on the application's event loop, so that `worker="task"`
    works. In a lifespan of your own: `async with lifespan(...)(app):`.

    >>> from fastapi.testclient import TestClient
    >>> app = FastAPI(lifespan=lifespan(directory / "agent-data", worker="task"))
    >>> @app.get("/{user}")
    ... async def history(session: Session = Depends(session_for("user"))) -> list[Any]:
    ...     return await session.get_items()
    >>> with TestClient(app) as client:
    ...     client.get("/alice").json()
    []
    """

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with open_store(*arguments, **options) as store:
            app.state.localfirst = store
            yield

    return opened


async def store_of(connection: HTTPConnection) -> Store:
    """A dependency: the application's store. Raises `ConfigurationError` if it was not opened by `lifespan`."""
    store = getattr(connection.app.state, "localfirst", None)
    if not isinstance(store, Store):
        raise ConfigurationError(
            "this application has no store: FastAPI(lifespan=lifespan(...)), of localfirst.integrations.fastapi"
        )
    return store


_Opened = Annotated[Store, Depends(store_of)]


def session_for(
    name: str | Callable[..., Any],
    where: Literal["path", "query", "header", "cookie"] = "path",
    *,
    prefix: str = "",
    ttl: timedelta | float | None = None,
) -> Callable[..., Awaitable[Session]]:
    """A dependency: the session that a request names, also of a websocket.

    `name`: of the parameter that holds the session's id, and `where` to find it; or a dependency of yours that gives
    the id, such as who is signed in: what a request merely names, anybody can name. `prefix` goes before the id. `ttl`
    as for `Store.session`. A request with an id that can't be one is answered with 422.
    """
    found = Depends(name) if callable(name) else _PARAMETERS[where](alias=name)

    async def session_of(store: _Opened, session_id: str = found) -> Session:
        try:
            checked = check_session_id(prefix + check_session_id(session_id))
        except ConfigurationError as error:
            raise HTTPException(422, str(error)) from None
        return store.session(checked, ttl=ttl)

    return session_of
