"""What was read back, held against the source."""

from __future__ import annotations

from collections.abc import Iterable

from localfirst.migration.marks import Chain, Mark
from localfirst.migration.source import Damaged, Row, item_of


def difference(rows: Iterable[Row], mark: Mark, items: list[bytes]) -> str | None:
    """What is wrong; None: the rows are those that were marked, and their items are all here, in their order. Between
    them may be others, that were written here."""
    chain, place = Chain(), 0
    for row in rows:
        if chain.rows == mark.rows:
            break
        chain.add(row)
        try:
            item = item_of(row)
        except Damaged:
            continue
        while place < len(items) and items[place] != item:
            place += 1
        if place == len(items):
            return f"the item of row {row.id} was imported, but was not read back: it was removed here, or is damaged"
        place += 1
    if chain.mark() != mark.unverified():
        return "the source was changed while it was read: run the import again"
    return None
