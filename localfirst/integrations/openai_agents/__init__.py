"""The sessions of the OpenAI Agents SDK, local-first, with its own constructors: only the import line changes.

Each is a `localfirst.Session`, too, with all that it can do. `docs/coming-from/openai-agents.md` has old and new calls
side by side. Needs the SDK: `pip install 'localfirst[openai-agents]'`.
"""

from __future__ import annotations

from localfirst.integrations.shared import of_extra

with of_extra("openai-agents"):
    from agents.memory import Session, SessionABC, SessionSettings

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
