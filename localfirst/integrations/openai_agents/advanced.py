"""`AdvancedSQLiteSession`: branches, turns, search, and what runs have used, on local disk."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from localfirst import jsonvalue, plans, usage
from localfirst.branches import Line
from localfirst.change import FORK, MAIN_BRANCH
from localfirst.change import branch_id as id_of_branch
from localfirst.errors import ConfigurationError
from localfirst.events import SessionEvent
from localfirst.fold import Fold
from localfirst.history import Item
from localfirst.integrations.openai_agents import structure
from localfirst.integrations.openai_agents.base import Settings
from localfirst.integrations.openai_agents.branching import ClearedStanding, ForkBefore
from localfirst.integrations.openai_agents.files import SQLiteSession
from localfirst.session import Session
from localfirst.view import OnBranch, Step, on_main

if TYPE_CHECKING:
    from agents import RunContextWrapper
    from agents.result import RunResultBase

T = TypeVar("T")
_PREVIEW: Final = 100


class AdvancedSQLiteSession(SQLiteSession):
    """In the place of the SDK's session with branches and usage: the same calls, the same answers.

    - `db_path`, `session_settings`, and the other keywords: as for `SQLiteSession`.
    - `create_tables`: there are no tables; True and False are alike.
    - `logger`: told of usage that could not be stored, and of branches; None: this module's.

    A `branch_id` is the name of a branch. All that others have forked is seen here too, and their usage is in the sums.
    An object begins on `"main"`, and `switch_to_branch` moves it alone. `branch()`, `branches()` and `switch()` are
    there as well; `delete_branch` is the SDK's, a coroutine.

    What a run uses is noted with each of its items that is stored, with no call of `store_run_usage`.

    >>> from localfirst.integrations.openai_agents import AdvancedSQLiteSession
    >>> async def ask_again():
    ...     session = AdvancedSQLiteSession(session_id="user-123", db_path=directory / "conversations.db")
    ...     await session.add_items([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}])
    ...     await session.add_items([{"role": "user", "content": "Thanks!"}])
    ...     print(await session.create_branch_from_turn(2, "instead"), len(session))
    ...     await session.add_items([{"role": "user", "content": "And 2 + 3?"}])
    ...     print([turn["content"] for turn in await session.get_conversation_turns()])
    ...     await session.switch_to_branch("main")
    ...     print([turn["content"] for turn in await session.get_conversation_turns()])
    ...     await session.aclose()
    >>> asyncio.run(ask_again())
    instead 2
    ['2 + 2?', 'And 2 + 3?']
    ['2 + 2?', 'Thanks!']
    """

    def __init__(
        self,
        *,
        session_id: str,
        db_path: str | os.PathLike[str] = ":memory:",
        create_tables: bool = False,  # noqa: ARG002
        logger: logging.Logger | None = None,
        session_settings: Settings = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(session_id, db_path, session_settings=session_settings, **kwargs)
        self._logger = logger or logging.getLogger(__name__)
        self._access.standing = self._standing = ClearedStanding(self._store._local, self._key, MAIN_BRANCH)

    # Items.

    async def add_items(self, items: Sequence[Any], *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """As `Session.add_items`; with it, what the run that adds them has used until now."""
        used = getattr(wrapper, "usage", None)
        if usage.is_used(used):
            branch, encoded = await self._access.branch_soon(), plans.encode_items(items)
            tell = partial(self._emit_each, SessionEvent.MESSAGE_ADDED, encoded)
            await self._access.write_soon(usage.appending(encoded, used, branch), branch=branch, then=tell)
        else:
            await super().add_items(items)

    async def get_items(
        self,
        limit: int | None = None,
        branch_id: str | None = None,
        *,
        whole_turns: bool | None = None,
        wrapper: RunContextWrapper[Any] | None = None,  # noqa: ARG002
    ) -> list[Any]:
        """As `Session.get_items`. `branch_id`: of that branch; nothing if there is none. None: of the current one."""
        if branch_id is None:
            return await super().get_items(limit, whole_turns=whole_turns)
        other = Session(
            self._store,
            self.session_id,
            branch=branch_id,
            session_settings=self.session_settings,
            whole_turns=self.whole_turns,
        )
        try:
            return await other.get_items(limit, whole_turns=whole_turns)
        except ConfigurationError:  # There is no such branch.
            return []

    async def pop_item(self, *, wrapper: RunContextWrapper[Any] | None = None) -> Any | None:  # noqa: ARG002
        """As `Session.pop_item`. What was used in a turn counts no more when its message is gone."""
        return await self._pop(plans.is_item)

    async def _pop(self, fits: Callable[[Any], bool]) -> Any | None:
        await self._access.hydrate_soon()
        branch = await self._access.branch_soon()
        popped = usage.Pop(fits, branch)
        await self._access.write_soon(popped, fresh=True, branch=branch, then=partial(self._emit_popped, popped))
        return popped.item

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:  # noqa: ARG002
        """Delete all that is seen here: every item, all branches but main, all usage. The object is on main then, as
        are others that stood on one of these branches. Metadata stays."""
        await _whole(self._clear())

    async def _clear(self) -> None:
        await self._access.hydrate_soon()
        async with self.turn():
            await self._access.write_soon(usage.clear, fresh=True, branch=on_main)
        self._cleared()

    def clear(self) -> None:
        """As `clear_session`, as a plain function."""
        self._access.hydrate()
        with self.turn():
            self._access.write(usage.clear, fresh=True, branch=on_main)
        self._cleared()

    def _cleared(self) -> None:
        self._standing.go(MAIN_BRANCH, 0)
        self._emit(SessionEvent.SESSION_CLEARED)

    def _keeps_items_as_they_are(self) -> bool:
        kind = type(self)
        return kind.get_items is AdvancedSQLiteSession.get_items and kind.add_items is AdvancedSQLiteSession.add_items

    # Usage.

    async def store_run_usage(self, result: RunResultBase) -> None:
        """Note what a run has used in the last turn, in the place of what was noted before. Call it after the run, if
        at all: only what a run uses after its last item was stored is missing without it. What fails is logged."""
        try:
            used = result.context_wrapper.usage
            if used is not None:
                branch = await self._access.branch_soon()
                await self._access.write_soon(usage.noting(used, branch), fresh=True, branch=branch)
        except Exception:
            self._logger.exception("session %r: what a run has used was not stored", self.session_id)

    async def get_session_usage(self, branch_id: str | None = None) -> dict[str, int] | None:
        """The sums over all turns of a branch, or of all branches: `requests`, `input_tokens`, `output_tokens`,
        `total_tokens`, and `total_turns`, of which something is known. None: of none is."""

        def look(fold: Fold, _: OnBranch) -> tuple[list[tuple[Line, list[Item]]], dict[str, bytes]]:
            lines = [fold.branches.named(branch_id)] if branch_id else fold.branches.shown()
            return [(line, list(line.history.items)) for line in lines if line is not None], usage.noted(fold)

        seen, records = await self._look(look)
        return usage.total([turn for each in seen for turn in usage.by_turn(*each, records).values()])

    async def get_usage_stats(self, branch_id: str | None = None) -> dict[str, int] | None:
        """As `get_session_usage`."""
        return await self.get_session_usage(branch_id)

    async def get_turn_usage(
        self, user_turn_number: int | None = None, branch_id: str | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """What was used in a turn of a branch (None: the current one): `requests`, `input_tokens`, `output_tokens`,
        `total_tokens`, `input_tokens_details`, `output_tokens_details`; `{}` if nothing is known. Without a number: of
        all turns of which something is, with their `user_turn_number`."""

        def look(fold: Fold, here: OnBranch) -> tuple[Line, list[Item], dict[str, bytes]] | None:
            line = _line(fold, branch_id, here)
            return None if line is None else (line, list(line.history.items), usage.noted(fold))

        seen = await self._look(look)
        turns = usage.by_turn(*seen) if seen else {}
        if user_turn_number is not None:
            return turns.get(user_turn_number, {})
        return [{"user_turn_number": turn, **used} for turn, used in turns.items()]

    # Branches.

    async def create_branch_from_turn(self, turn_number: int, branch_name: str | None = None) -> str:
        """Fork the current branch before a turn, and go to the new one. Returns its name.

        Nothing is copied, whatever the length. Raises `ValueError` if there is no such turn, and if the name is blank
        or in use.
        """
        if branch_name is not None and not branch_name.strip():
            raise ValueError("Branch name cannot be empty")
        return await _whole(self._fork(turn_number, branch_name))

    async def _fork(self, turn_number: int, branch_name: str | None) -> str:
        await self._access.hydrate_soon()
        branch = await self._access.branch_soon()
        plan = ForkBefore(turn_number, None if branch_name is None else plans.checked_name(branch_name), branch)
        changes = await self._access.write_soon(plan, fresh=True, branch=branch)
        fork = next(change for change in changes if change.kind == FORK)
        self._standing.go(id_of_branch(fork.origin, fork.counter), fork.time)
        self._logger.debug("Created branch %r from turn %s", plan.name, turn_number)
        return plan.name

    async def create_branch_from_content(self, search_term: str, branch_name: str | None = None) -> str:
        """As `create_branch_from_turn`, from the first turn that `find_turns_by_content` finds. Raises `ValueError`."""
        found = await self.find_turns_by_content(search_term)
        if not found:
            raise ValueError(f"No user turns found containing '{search_term}'")
        return await self.create_branch_from_turn(found[0]["turn"], branch_name)

    async def switch_to_branch(self, branch_id: str) -> None:
        """Go to a branch. Other objects stay where they are. Raises `ValueError` if there is no such branch."""
        line = await self._look(lambda fold, _: fold.branches.named(branch_id))
        if line is None:
            raise _no_branch(branch_id)
        self._standing.go(line.id, line.time)
        self._logger.info("Switched to branch %r", branch_id)

    async def delete_branch(self, branch_id: str, force: bool = False) -> None:  # type: ignore[override]  # the SDK's
        """Delete a branch, everywhere, and what is known of its usage. Those that were forked from it stay as they are.

        Raises `ValueError` for main, one that is not there, and the current one. `force`: the object goes to main then.
        """
        if not branch_id or not branch_id.strip():
            raise ValueError("Branch ID cannot be empty")
        if branch_id == MAIN_BRANCH:
            raise ValueError("Cannot delete the 'main' branch")
        await _whole(self._delete_branch(branch_id, force))

    async def _delete_branch(self, branch_id: str, force: bool) -> None:
        await self._access.hydrate_soon()
        here = await self._access.branch_soon()
        was_current = False

        def plan(fold: Fold) -> list[Step]:
            nonlocal was_current
            line = fold.branches.named(branch_id)
            if line is None:
                raise _no_branch(branch_id)
            was_current = line is _current(fold, here)
            if was_current and not force:
                raise ValueError(f"Cannot delete current branch '{branch_id}'. Use force=True or switch branches first")
            return usage.drop(line, fold)

        await self._access.write_soon(plan, fresh=True, branch=on_main)
        if was_current:
            self._standing.go(MAIN_BRANCH, 0)
        self._logger.info("Deleted branch %r", branch_id)

    async def list_branches(self) -> list[dict[str, Any]]:
        """The branches on which there are items, oldest first: `branch_id`, `message_count`, `user_turns`,
        `is_current`, `created_at` (UTC; of main: when its first item was added)."""

        def look(fold: Fold, here: OnBranch) -> list[tuple[int, Line, list[Item], bool]]:
            current = _current(fold, here)
            lines = [(line, list(line.history.items)) for line in fold.branches.shown()]
            return [(line.time or items[0].time, line, items, line is current) for line, items in lines if items]

        return [
            {
                "branch_id": line.name,
                "message_count": len(items),
                "user_turns": sum(1 for _ in structure.questions(items)),
                "is_current": is_current,
                "created_at": structure.when(created),
            }
            for created, line, items, is_current in sorted(await self._look(look), key=itemgetter(0))
        ]

    # Turns.

    async def get_conversation_turns(self, branch_id: str | None = None) -> list[dict[str, Any]]:
        """The messages of the user on a branch (None: the current one), oldest first: `turn`, `content` (its first 100
        characters), `full_content`, `timestamp` (UTC), `can_branch`."""
        items = await self._items_on(branch_id)
        return [_told(turn, item, _PREVIEW) for turn, item in structure.questions(items)]

    async def find_turns_by_content(self, search_term: str, branch_id: str | None = None) -> list[dict[str, Any]]:
        """Those of `get_conversation_turns` in whose text a string is found; capital letters from A to Z don't count.
        Their `content` is not cut."""
        pattern = re.compile(re.escape(search_term), re.IGNORECASE | re.ASCII)
        return [
            _told(turn, item, None)
            for turn, item in structure.questions(await self._items_on(branch_id))
            if any(map(pattern.search, structure.texts(_content(item))))
        ]

    async def get_conversation_by_turns(self, branch_id: str | None = None) -> dict[int, list[dict[str, str | None]]]:
        """The items of a branch (None: the current one) by turn: the `type` of each, and the `tool_name`, or None. What
        is before the first message of a user is in turn 0."""
        turns: dict[int, list[dict[str, str | None]]] = {}
        for turn, kind, tool in structure.structure(await self._items_on(branch_id)):
            turns.setdefault(turn, []).append({"type": kind, "tool_name": tool})
        return turns

    async def get_tool_usage(self, branch_id: str | None = None) -> list[tuple[str, int, int]]:
        """Each tool that was called on a branch (None: the current one), how often, and in which turn."""
        return structure.tools_used(await self._items_on(branch_id))

    # Inside.

    @property
    def _current_branch_id(self) -> str:
        """Programs read it: the SDK tells in no other way where a session is."""
        here = self._access.branch()
        line = self._access.glance(lambda fold: _current(fold, here))
        return line.name if line is not None else ""

    async def _look(self, look: Callable[[Fold, OnBranch], T]) -> T:
        await self._access.hydrate_soon()
        here = await self._access.branch_soon()
        return await self._access.read_soon(lambda fold: look(fold, here))

    async def _items_on(self, branch_id: str | None) -> list[Item]:
        def look(fold: Fold, here: OnBranch) -> list[Item]:
            line = _line(fold, branch_id, here)
            return list(line.history.items) if line is not None else []

        return await self._look(look)


async def _whole(call: Coroutine[Any, Any, T]) -> T:
    """What a call gives. If the caller is cancelled, however often, the call is finished first."""
    task, cancelled = asyncio.ensure_future(call), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()


def _line(fold: Fold, branch_id: str | None, here: OnBranch) -> Line | None:
    return fold.branches.get(here(fold)) if branch_id is None else fold.branches.named(branch_id)


def _current(fold: Fold, here: OnBranch) -> Line | None:
    """Where an object stands; None: on a branch that was deleted."""
    try:
        return _line(fold, None, here)
    except ConfigurationError:
        return None


def _told(turn: int, item: Item, length: int | None) -> dict[str, Any]:
    content = _content(item)
    return {
        "turn": turn,
        "content": structure.preview(content, length),
        "full_content": content,
        "timestamp": structure.when(item.time),
        "can_branch": True,
    }


def _content(item: Item) -> Any:
    return jsonvalue.decode(item.data).get("content", "")


def _no_branch(branch_id: str) -> ValueError:
    return ValueError(f"Branch '{branch_id}' does not exist")
