"""Loads the `.sql` files beside it: named statements, each with a line that says what it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(file: str) -> Mapping[str, str]:
    """The statements of a file by name, in its order."""
    text = files(__package__).joinpath(file).read_text("utf-8")
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


QUERIES: Final = load("queries.sql")
SCHEMA: Final = {**load("schema.sql"), **load("views.sql"), **load("tenants.sql")}
