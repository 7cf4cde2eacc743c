"""Exports: a session as a JSON-ready dict, versioned, and read back only if every part of it is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from localfirst import jsonvalue
from localfirst.errors import InvalidItem

EXPORT_FORMAT: Final = "localfirst.session"
EXPORT_VERSION: Final = 1


def write_export(session_id: str, items: list[Any], metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """`{"format", "version", "session_id", "items", "metadata"}`; the values of metadata are JSON.

    >>> write_export("u", ["hi"], {"k": b"1"})["metadata"]
    {'k': 1}
    """
    return {
        "format": EXPORT_FORMAT,
        "version": EXPORT_VERSION,
        "session_id": session_id,
        "items": items,
        "metadata": {key: jsonvalue.decode(value) for key, value in sorted(metadata.items())},
    }


def read_export(data: Any) -> tuple[list[Any], dict[str, Any]]:
    """The items and the metadata of an export. Raises `InvalidItem` that says what is wrong."""
    if not isinstance(data, dict):
        raise InvalidItem(f"an export is a dict, this is {type(data).__name__}; nothing was imported")
    if data.get("format") != EXPORT_FORMAT:
        raise InvalidItem(f"this is no export: its format is {data.get('format')!r:.60}; nothing was imported")
    if data.get("version") != EXPORT_VERSION:
        raise InvalidItem(
            f"this export has version {data.get('version')!r:.60}, this localfirst reads {EXPORT_VERSION}:"
            " upgrade it; nothing was imported"
        )
    items, metadata = data.get("items"), data.get("metadata")
    if not isinstance(items, list) or not isinstance(metadata, dict):
        raise InvalidItem("this export is damaged: its items or its metadata are missing; nothing was imported")
    if not all(isinstance(key, str) for key in metadata):
        raise InvalidItem("this export is damaged: a metadata key is not a string; nothing was imported")
    return items, metadata
