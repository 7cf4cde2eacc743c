"""What agents do: one call on one session, of every kind. What reached the disk is told to the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

from localfirst import jsonvalue, plans
from localfirst.branches import Line, encode_drop
from localfirst.change import APPEND, CLEAR, DROP, END, PUT, REMOVE, TOUCH, Change
from localfirst.errors import InvalidItem
from localfirst.fold import Fold
from localfirst.lifetime import Wish, encode_touch
from localfirst.local import Local
from localfirst.metadata import Rule, encode_put
from localfirst.records import CHANGE, span
from localfirst.room import Evicted
from localfirst.view import OnBranch, Plan, Step, no_turn, on_main
from tests.simulation.lives import Lives
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.replica import Process
from tests.simulation.server import REFUSED
from tests.simulation.watch import Watch
from tests.simulation.world import WORLD

_MOST_INCREMENTS: Final = 50
"""Of a session: each adds a power of two of its own, so that the sum tells which of them are in it."""

Action = Callable[[Process, str], str]
Between = Callable[[Process, str], None]
"""Called between the look at a session and the write: another process may be faster."""


class Gone(Exception):
    """The branch that was chosen is not there any more."""


class Agents:
    """All agents of a universe. `branching`: they fork sessions, too. `lives`: they let them end."""

    def __init__(self, oracle: Oracle, between: Between, watch: Watch, *, branching: bool, lives: Lives | None) -> None:
        self._branching = branching
        self._lives = lives
        self._oracle = oracle
        self._between = between
        self._watch = watch
        self._items = 0
        self._increments: dict[str, int] = {}

    def act(self, process: Process, session: str) -> str:
        """One call, and what it was."""
        choose = WORLD.random
        actions: list[tuple[int, Action]] = [
            (10, self.append),
            (4, self.pop),
            (1, self.clear),
            (3, self.put),
            (1, self.delete),
            (3, self.increment),
            (3, self.turn),
        ]
        if self._branching:
            actions += [(3, self.fork), (1, self.drop)]
        if self._lives is not None:
            actions += [(2, self.touch), (1, self.delete_session)]
        action = choose.choices([action for _, action in actions], [weight for weight, _ in actions])[0]
        return action(process, session)

    def append(self, process: Process, session: str, mark: str = "") -> str:
        """One to three items."""
        items = []
        for _ in range(WORLD.random.choice((1, 1, 2, 3))):
            self._items += 1
            name = f"{self._items}" if self._lives is None else f"item {self._items}"
            items.append(f"{name}{mark}" + "." * WORLD.random.choice((0, 0, 5, 60)))
        body = jsonvalue.join(plans.encode_items(items))
        line = self._choose(process, session)
        self._write(process, session, lambda _: [(APPEND, body)], line=line)
        return f"append {items} to {line.name}"

    def append_refused(self, process: Process, session: str) -> str:
        """An item that the central store will not take."""
        self._oracle.refused.add(session)
        return self.append(process, session, REFUSED.decode())

    def pop(self, process: Process, session: str) -> str:
        """The last item, or the last of some."""
        line = self._choose(process, session)
        pop = plans.Pop(WORLD.random.choice((plans.is_item, lambda item: len(item) < 50)), _on(line))

        def plan(fold: Fold) -> Sequence[Step]:
            steps = pop(fold)
            seen[:] = [jsonvalue.encode(pop.item)] if steps else []
            return steps

        seen: list[bytes] = []
        self._write(process, session, plan, seen, line=line, fresh=True)
        return f"pop {seen} from {line.name}"

    def clear(self, process: Process, session: str) -> str:
        """All items that are seen."""

        def plan(fold: Fold) -> Sequence[Step]:
            seen[:] = [item.data for item in fold.on(_on(line)(fold))]
            return plans.clear(fold, _on(line))

        line = self._choose(process, session)
        seen: list[bytes] = []
        self._write(process, session, plan, seen, line=line, fresh=True)
        return f"clear {seen} of {line.name}"

    def fork(self, process: Process, session: str) -> str:
        """A branch of all that is seen of another, or of its beginning."""

        def plan(fold: Fold) -> Sequence[Step]:
            items = list(fold.on(_on(line)(fold)))
            end = len(items) if whole else len(items) // 2
            seen[:] = [item.data for item in items[:end]]
            return [plans.fork_before(fold, name, items[end:])]

        line = self._choose(process, session)
        name, whole = WORLD.random.choice("xyz"), WORLD.random.random() < 0.5
        seen: list[bytes] = []
        self._write(process, session, plan, seen, line=line, fresh=True)
        return f"fork {name} of {line.name} with {seen}"

    def drop(self, process: Process, session: str) -> str:
        """A branch is deleted."""
        line = self._choose(process, session)
        if line.time:
            self._write(process, session, lambda fold: [(DROP, encode_drop(_on(line)(fold)))], line=line, fresh=True)
        return f"drop {line.name}"

    def _choose(self, process: Process, session: str) -> Line:
        """A branch, as far as the process knows them."""
        branches = process.view(session).fold.branches
        if not self._branching or WORLD.random.random() < 0.3:
            return branches.main
        return WORLD.random.choice(branches.shown())

    def put(self, process: Process, session: str) -> str:
        """A value, by any rule."""
        number = WORLD.random.randrange(1000)
        rule: Rule = WORLD.random.choice(("last", "first", "merge", "union", "max", "min"))
        values: dict[str, Any] = {"union": [number % 20], "merge": {"abc"[number % 3]: number, "abc"[number % 2]: 1}}
        value = values.get(rule, number)
        if rule == "merge":
            self._write(process, session, plans.merge("merge", value), fresh=True)
        else:
            key = rule if rule in ("union", "max", "min") else WORLD.random.choice("xy")
            self._write(process, session, plans.always((PUT, encode_put(key, rule, jsonvalue.encode(value)))))
        return f"put {rule} {value}"

    def delete(self, process: Process, session: str) -> str:
        """A value."""
        self._write(process, session, plans.delete(WORLD.random.choice(("x", "y", "merge"))), fresh=True)
        return "delete"

    def increment(self, process: Process, session: str) -> str:
        """Each by another power of two."""
        count = self._increments.get(session, 0)
        if count >= _MOST_INCREMENTS:
            return "increment: enough"
        self._increments[session] = count + 1
        try:
            self._write(process, session, plans.increment("count", 1 << count), fresh=True)
        except InvalidItem as error:
            raise Violation(2, "increments add up", str(error)) from error
        return f"increment by {1 << count}"

    # Lives.

    def touch(self, process: Process, session: str) -> str:
        """How long the session and its items live."""
        choose = WORLD.random.choice
        ttl = choice = choose((None, None, 0, 5_000, 20_000, 60_000))
        wish = Wish(ttl, choose((None, None, None, 0, 5_000, 30_000)) if choice is None else None, own=True)
        self._write(process, session, plans.always((TOUCH, encode_touch(wish))))
        return f"touch {wish}"

    def delete_session(self, process: Process, session: str) -> str:
        """As `Local.delete`, which scrubs the files, too."""
        assert self._lives is not None
        process.log.create(process.key(session), process.new_head(session))
        self._watch.check(process.directory, session)
        self._lives.deleting(process.directory, session)
        Local._end(cast(Local, process), process.key(session), everywhere=True)
        process.worker.wake()
        return "delete the session"

    # Turns.

    def turn(self, process: Process, session: str) -> str:
        """Begin one, or end the one that is open."""
        if session in process.open_turns:
            return self.end_turn(process, session)
        process.begin_turn(session)
        for _ in range(WORLD.random.choice((1, 2, 3))):
            self.append(process, session)
        return "turn"

    def end_turn(self, process: Process, session: str) -> str:
        """What was written in it may go."""
        turn = process.open_turns.pop(session)
        if turn._number and process.turns.is_open(process.key(session), turn._number):
            before = self._slots(process, session).keys()
            try:
                process.view(session).write(plans.always((END, b"{}")), fresh=False, turn=turn._last)
            finally:
                self._note(process, session, before, (), 0)  # What says that it begins anew.
            process.turns.close(process.key(session), turn._number)
        return "end of turn"

    # All of them.

    def _write(
        self,
        process: Process,
        session: str,
        plan: Plan,
        seen: Sequence[bytes] = (),
        *,
        line: Line | None = None,
        fresh: bool = False,
    ) -> None:
        """Carry out a plan, in the turn that is open, if any. Whatever happens, what is on disk is noted."""
        turn = process.open_turns.get(session)
        number = no_turn if turn is None else turn.number
        if WORLD.random.random() < 0.2:
            number = no_turn  # Another task of the same process.

        def interrupted(fold: Fold) -> Sequence[Step]:
            steps = plan(fold)
            self._between(process, session)
            return steps

        before = self._slots(process, session).keys()
        made: list[Change] = []
        try:
            made = process.view(session).write(
                interrupted, fresh=fresh, turn=number, branch=on_main if line is None else _on(line)
            )
        except Gone:
            pass
        except Evicted:
            process.wanted.add(session)
        finally:
            self._note(process, session, before, seen, 0 if line is None else line.time)
        if any(change.time not in self._oracle.records for change in made):
            raise Violation(1, "what was told is kept", f"session {session}: a call returned, and it is not on disk")
        if WORLD.random.random() < 0.5:
            process.worker.wake()

    def _note(
        self, process: Process, session: str, before: AbstractSet[bytes], seen: Sequence[bytes], branch: int
    ) -> None:
        for key, data in self._slots(process, session).items():
            change = WORLD.vault.codec(session).decode(data) if data and key not in before else None
            if change is None or change.kind == END or change.time in self._oracle.records:
                continue
            record = self._oracle.note(session, change, process.directory.number, seen, branch)
            if change.kind in (REMOVE, CLEAR):
                self._watch.took(process.directory, record)

    @staticmethod
    def _slots(process: Process, session: str) -> dict[bytes, bytes]:
        disk = process.directory.disk
        return {key: disk.rows[key].value for key in disk.span(*span(CHANGE + process.key(session)))}


def _on(line: Line) -> OnBranch:
    """Finds a branch again, as a session does that stands on it."""

    def find(fold: Fold) -> str:
        found = fold.branches.find(line.id, line.time)
        if found is None:
            raise Gone
        return found.id

    return find
