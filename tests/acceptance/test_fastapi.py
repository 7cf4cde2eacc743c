"""FastAPI with one store for the application, and a session for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

import localfirst
from localfirst.integrations.fastapi import lifespan, session_for, store_of
from localfirst.options import WorkerKind


def signed_in(authorization: Annotated[str, Header()]) -> str:
    """Who asks."""
    if not authorization.startswith("Bearer "):
        raise HTTPException(401)
    return authorization.removeprefix("Bearer ")


def nobody() -> None:
    """Who asks, if that is not known."""


ByPath = Annotated[localfirst.Session, Depends(session_for("user", prefix="user-"))]
ByQuery = Annotated[localfirst.Session, Depends(session_for("session", "query"))]
ByHeader = Annotated[localfirst.Session, Depends(session_for("X-Session", "header"))]
ByCookie = Annotated[localfirst.Session, Depends(session_for("session", "cookie"))]
ByUser = Annotated[localfirst.Session, Depends(session_for(signed_in, ttl=3600))]
ByNobody = Annotated[localfirst.Session, Depends(session_for(nobody))]


def application(*arguments: Any, **options: Any) -> FastAPI:
    """One that says whose session a request is for, and that somebody came."""
    app = FastAPI(lifespan=lifespan(*arguments, **options))

    @app.get("/users/{user}")
    async def by_path(session: ByPath) -> str:
        await session.add_items(["came"])
        return f"{session.session_id} {len(await session.get_items())}"

    @app.get("/query")
    def by_query(session: ByQuery) -> str:
        return session.session_id

    @app.get("/header")
    async def by_header(session: ByHeader) -> str:
        return session.session_id

    @app.get("/cookie")
    async def by_cookie(session: ByCookie) -> str:
        return session.session_id

    @app.get("/me")
    async def by_user(session: ByUser) -> str:
        await session.add_items(["came"])
        assert session.expires_at is not None
        return session.session_id

    @app.get("/nobody")
    async def by_nobody(session: ByNobody) -> str:
        return session.session_id

    @app.websocket("/users/{user}/socket")
    async def socket(websocket: WebSocket, session: ByPath) -> None:
        await websocket.accept()
        await websocket.send_text(session.session_id)
        await websocket.close()

    return app


@pytest.mark.parametrize("worker", ["task", "thread"])
def test_a_store_lives_as_long_as_its_application(tmp_path: Path, worker: WorkerKind) -> None:
    central = (tmp_path / "central").as_uri()
    app = application(tmp_path / "a", remote=central, worker=worker, sync_interval=600)
    with TestClient(app) as client:
        for number in (1, 2, 3):
            assert client.get("/users/ann").json() == f"user-ann {number}"
        store = app.state.localfirst
    with pytest.raises(localfirst.StoreClosed):
        store.status()
    with TestClient(application(tmp_path / "b", remote=central, worker=worker)) as client:
        assert client.get("/users/ann").json() == "user-ann 4"


def test_where_a_request_names_its_session(tmp_path: Path) -> None:
    with TestClient(application(tmp_path)) as client:
        assert client.get("/query", params={"session": "ann"}).json() == "ann"
        assert client.get("/header", headers={"X-Session": "ann"}).json() == "ann"
        client.cookies.set("session", "ben")
        assert client.get("/cookie").json() == "ben"
        assert client.get("/me", headers={"Authorization": "Bearer ann"}).json() == "ann"
        assert client.get("/me", headers={"Authorization": "ann"}).status_code == 401
        with client.websocket_connect("/users/ann/socket") as socket:
            assert socket.receive_text() == "user-ann"


def test_what_can_be_no_session_is_refused(tmp_path: Path) -> None:
    with TestClient(application(tmp_path)) as client:
        for path in ("/query", "/query?session=", f"/users/{'a' * 2000}", "/users/%00", "/header", "/nobody"):
            assert client.get(path).status_code == 422, path
        assert "session id" in client.get("/users/%00").json()["detail"]
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/users/%00/socket"):
            pytest.fail("it was let in")
        assert list(app_sessions(client)) == []


def app_sessions(client: TestClient) -> list[str]:
    """The sessions that its application has."""
    app: Any = client.app
    return [info.session_id for info in app.state.localfirst.sessions()]


def test_an_application_without_a_store_says_so() -> None:
    app = FastAPI()

    @app.get("/")
    def look(store: Annotated[localfirst.Store, Depends(store_of)]) -> str:
        return repr(store)

    with TestClient(app) as client, pytest.raises(localfirst.ConfigurationError, match=r"lifespan=lifespan\(...\)"):
        client.get("/")


def test_a_lifespan_of_ones_own_and_an_application_that_is_mounted(tmp_path: Path) -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with lifespan(tmp_path)(app):
            yield {"mine": "too"}

    app, mounted = FastAPI(lifespan=own), application()
    app.mount("/in", mounted)
    mounted.state = app.state
    with TestClient(app) as client:
        assert client.get("/in/users/ann").json() == "user-ann 1"
        assert [info.session_id for info in app.state.localfirst.sessions()] == ["user-ann"]


def test_an_application_does_not_start_without_what_it_needs(tmp_path: Path) -> None:
    with (
        pytest.raises(localfirst.ConfigurationError, match="mysql"),
        TestClient(application(tmp_path, remote="mysql://db")),
    ):
        pytest.fail("it started")
