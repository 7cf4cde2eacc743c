"""The sessions of a store in a list: which of them, and what is told of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from localfirst import jsonvalue
from localfirst.clock import moment, pack
from localfirst.errors import ConfigurationError
from localfirst.link import Link
from localfirst.local import Local
from localfirst.overview import Stopped, session_info
from localfirst.owner import checked_owner
from localfirst.status import SessionInfo

Fits = Callable[[SessionInfo], bool]


def fitting(owner: str | None, where: Mapping[str, Any] | None) -> Fits:
    """Tells whether a session has this owner and these values in its metadata, as far as that is known here. Raises
    `ConfigurationError` and `InvalidItem` for what no session can have."""
    wanted = None if owner is None else checked_owner(owner)
    values = {}
    for key, value in checked_where(where).items():
        values[key] = _canonical(jsonvalue.decode(jsonvalue.encode(value)))

    def fits(info: SessionInfo) -> bool:
        return (wanted is None or info.owner == wanted) and all(
            key in info.metadata and _canonical(info.metadata[key]) == value for key, value in values.items()
        )

    return fits


def checked_where(where: object) -> Mapping[str, Any]:
    """Keys of metadata and their values, or `ConfigurationError`."""
    if where is None or (isinstance(where, Mapping) and all(isinstance(key, str) for key in where)):
        return where or {}
    raise ConfigurationError(
        f"where is a dict of metadata keys, which are strings, and their values, not {where!r:.60}"
    )


def listed(
    local: Local, link: Link | None, stopped: Stopped, prefix: str, idle_for: timedelta | None, fits: Fits
) -> Iterator[SessionInfo]:
    """The sessions that are known here, in the order of their ids. Those that hold nothing are left out, unless
    they are in quarantine or sealed."""
    halted = {key for key, _ in stopped}
    local.expire(alone=link is None)
    now = moment(pack(local.time.now())) or datetime.now(timezone.utc)
    for key, session_id in local.sessions(prefix):
        info = session_info(local, link, key, session_id, stopped=key in halted)
        if info.updated_at is None:  # Unless somebody has to act, it was only asked for.
            shown = idle_for is None and (key in halted or info.state == "sealed")
        else:
            shown = idle_for is None or now - info.updated_at >= idle_for
        if shown and fits(info):
            yield info


def _canonical(value: Any) -> str:
    """Equal for what is equal as JSON: 1, 1.0 and True differ, the order of a dict's keys is nothing."""
    return json.dumps(value, sort_keys=True)
