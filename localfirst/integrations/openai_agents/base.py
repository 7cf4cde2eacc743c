"""What the sessions for the OpenAI Agents SDK have in common."""

from __future__ import annotations

from typing import Any, Final

from agents.memory import SessionABC, SessionSettings

from localfirst.integrations.face import Face

SESSIONS_TABLE: Final = "agent_sessions"
MESSAGES_TABLE: Final = "agent_messages"

Settings = SessionSettings | dict[str, Any] | None


class AgentsSession(Face, SessionABC):
    """A session with settings of the SDK's own kind. Make a session of your own by subclassing one of those below it:
    one whose four methods take `wrapper` is given the run context, as with any other of the SDK."""

    @property
    def session_settings(self) -> SessionSettings:
        """`limit` is how many of the last items `get_items` gives, and the Runner a model; None: all. A dict will do
        to set it."""
        return self._settings

    @session_settings.setter
    def session_settings(self, value: Settings) -> None:
        self._settings = SessionSettings(**value) if isinstance(value, dict) else value or SessionSettings()


def namespace_of(sessions_table: str, messages_table: str) -> str:
    """The namespace of what the SDK has in tables of these names.

    >>> namespace_of("agent_sessions", "agent_messages"), namespace_of("agent_sessions", "support")
    ('default', 'agent_sessions.support')
    """
    tables = sessions_table, messages_table
    return "default" if tables == (SESSIONS_TABLE, MESSAGES_TABLE) else ".".join(tables)
