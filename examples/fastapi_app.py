"""A FastAPI service with a session for each user; requests never wait for the server behind the store.

pip install '.[fastapi]' uvicorn
LOCALFIRST_REMOTE=redis://... uvicorn --factory examples.fastapi_app:app

python examples/fastapi_app.py      # without a port: sends itself a few requests, by Starlette's test client,
                                    # which needs one package more: httpx2 (an older Starlette: httpx)
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel

import localfirst
from localfirst.integrations.fastapi import lifespan, session_for, store_of

UserSession = Annotated[localfirst.Session, Depends(session_for("user", prefix="user-"))]
Store = Annotated[localfirst.Store, Depends(store_of)]


class Message(BaseModel):
    """What a user says."""

    content: str


def create_app(path: Path | None = None, **options: Any) -> FastAPI:
    """The application; it opens its store when it starts, and closes it when it ends: that sends what is pending."""
    app = FastAPI(lifespan=lifespan(path, **options))

    @app.post("/users/{user}/messages")
    async def say(session: UserSession, message: Message) -> dict[str, Any]:
        history = await session.get_items()
        answer = {"role": "assistant", "content": reply(history, message.content)}
        await session.add_items([{"role": "user", "content": message.content}, answer])
        return answer

    @app.get("/users/{user}/messages")
    async def history(session: UserSession, limit: int | None = None) -> list[Any]:
        return await session.get_items(limit)

    @app.get("/health")
    async def health(store: Store) -> dict[str, Any]:
        # An unreachable central store is no reason to take this instance out of service.
        status = store.status()
        return {"sync": status.state, "pending": status.pending_changes}

    return app


def reply(history: list[Any], content: str) -> str:
    """Where an agent would think."""
    return f"You said {content!r}, after {len(history)} earlier messages."


def app() -> FastAPI:
    """For `uvicorn --factory`: the store is where $LOCALFIRST_HOME and $LOCALFIRST_REMOTE say."""
    return create_app()


def main() -> None:
    """Talk to the application without a port."""
    from fastapi.testclient import TestClient  # The service itself needs neither it nor the package behind it.

    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()
        with TestClient(create_app(Path(scratch) / "store", remote=remote, namespace="fastapi-example")) as client:
            for user, content in (("ann", "Hello"), ("ben", "Good morning"), ("ann", "Me again")):
                answer = client.post(f"/users/{user}/messages", json={"content": content}).json()
                print(f"{user}: {answer['content']}")
            print("health:", client.get("/health").json())


if __name__ == "__main__":
    main()
