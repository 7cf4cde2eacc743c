"""What the faces need to share a session with each other, and to be without the packages that they are for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from localfirst.errors import ConfigurationError
from localfirst.export import write_export
from localfirst.session import Session


class MissingPackage(ConfigurationError, ImportError):
    """A package is missing that an integration is for."""


@contextmanager
def of_extra(extra: str) -> Iterator[None]:
    """Around the imports of an integration. Raises `MissingPackage` that names what to install.

    >>> with of_extra("langchain"):
    ...     import a_package_that_is_not_there
    Traceback (most recent call last):
    localfirst.integrations.shared.MissingPackage: No module named 'a_package...': pip install 'localfirst[langchain]'
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackage(f"{error}: pip install 'localfirst[{extra}]'") from None


def add_items(session: Session, items: Sequence[Any]) -> None:
    """As `await session.add_items(items)`, as a plain function."""
    session.import_data(write_export(session.session_id, list(items), {}))


def own_part(item: Any, framework: str) -> Any:
    """What a framework keeps in an item for itself, beside what is for all; None if there is nothing.

    It is under `provider_data`, which the OpenAI Agents SDK takes out of what it sends.

    >>> own_part({"role": "user", "content": "Hello", "provider_data": {"langchain": {"type": "human"}}}, "langchain")
    {'type': 'human'}
    """
    parts = item.get("provider_data") if isinstance(item, dict) else None
    return parts.get(framework) if isinstance(parts, dict) else None


def text_of(content: Any) -> str | None:
    """The text of a content, whether it is a string or a list of parts; None if it holds anything else.

    >>> text_of("Hello"), text_of([{"type": "output_text", "text": "Hel"}, "lo"]), text_of([{"type": "image"}])
    ('Hello', 'Hello', None)
    """
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if len(found) == len(texts) else None
