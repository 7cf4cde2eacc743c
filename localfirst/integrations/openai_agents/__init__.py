"""The sessions of the OpenAI Agents SDK, local-first, with its own constructors: only the import line changes.

Each is a `localfirst.Session`, too, with all that it can do. `docs/coming-from/openai-agents.md` has old and new calls
side by side. Needs the SDK: `pip install 'localfirst[openai-agents]'`.
"""

from __future__ import annotations

try:
    from agents.memory import Session, SessionABC, SessionSettings
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "agents":
        raise
    raise ModuleNotFoundError(
        "localfirst.integrations.openai_agents needs the OpenAI Agents SDK: pip install 'localfirst[openai-agents]'",
        name=error.name,
    ) from None

from localfirst.integrations.openai_agents.advanced import AdvancedSQLiteSession
from localfirst.integrations.openai_agents.encrypted import EncryptedSession
from localfirst.integrations.openai_agents.files import AsyncSQLiteSession, SQLiteSession
from localfirst.integrations.openai_agents.redis import RedisSession
from localfirst.integrations.openai_agents.sqlalchemy import SQLAlchemySession

__all__ = [
    "AdvancedSQLiteSession",
    "AsyncSQLiteSession",
    "EncryptedSession",
    "RedisSession",
    "SQLAlchemySession",
    "SQLiteSession",
    "Session",
    "SessionABC",
    "SessionSettings",
]
