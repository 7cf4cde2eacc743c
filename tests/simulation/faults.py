"""What goes wrong at large: servers and directories are lost, restored and copied, clocks step, hostile things come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from localfirst.change import APPEND, MAIN_BRANCH, Change, encode_change, new_id
from localfirst.errors import ConfigurationError
from localfirst.giving_up import give_up
from localfirst.records import TURN, session_key, span
from sync.central.base import Run
from tests.simulation.oracle import Turn
from tests.simulation.replica import Directory
from tests.simulation.rows import Disk
from tests.simulation.server import NAMESPACE
from tests.simulation.universe import Universe
from tests.simulation.world import WORLD

Fault = Callable[["Faults"], str]
"""Returns what happened."""


class Faults:
    """Of one universe; which of them happen, and how often, is chosen with it."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self._server = universe.server
        self._oracle = universe.oracle
        self._snapshots: list[dict[str, Any]] = [{}]
        self._copies: list[tuple[int, Disk]] = []
        choose = WORLD.random
        self.kinds = [(fault, weight) for fault, weight in WEIGHTS.items() if choose.random() < 0.5]
        if universe.lives is not None:
            self.kinds = [(fault, weight) for fault, weight in self.kinds if fault in WHERE_LIVES_END]
        self.often = choose.choice((0.0, 0.01, 0.03, 0.06, 0.12)) if self.kinds else 0.0

    def strike(self) -> None:
        """One of them."""
        faults, weights = [fault for fault, _ in self.kinds], [weight for _, weight in self.kinds]
        fault = WORLD.random.choices(faults, weights)[0]
        self.universe.say(f"FAULT {fault(self)}")

    def _any_session(self) -> str:
        return WORLD.random.choice(self.universe.sessions)

    def _any_directory(self) -> Directory:
        return WORLD.random.choice(self.universe.directories)

    # Processes and clocks.

    def crash(self) -> str:
        """A process is killed at an await."""
        directory = self._any_directory()
        if directory.processes:
            WORLD.random.choice(directory.processes).kill()
        return f"a process of directory {directory.number} is killed"

    def restart(self) -> str:
        """The server is started again."""
        self._server.epoch += 1
        return "the server is started again"

    def step_clock(self) -> str:
        """The clock of a machine is set."""
        directory = self._any_directory()
        directory.clock.skew = WORLD.random.choice((0.0, 1e8, -1e8, 100.0, -100.0))
        directory.clock.stepped = True
        return f"the clock of directory {directory.number} steps"

    def step_server_clock(self) -> str:
        """The clock of the server is set."""
        self._server.skew = WORLD.random.choice((0.0, -3600.0, -1e7, 3600.0))
        return "the server's clock steps"

    def long_pause(self) -> str:
        """Nobody writes for so long that open turns are taken for forgotten."""
        WORLD.now += 1000.0
        return "a long pause"

    # The central store.

    def snapshot(self) -> str:
        """A backup of the server."""
        self._snapshots.append(self._server.snapshot())
        return "a backup of the server is made"

    def restore(self) -> str:
        """The server is restored from a backup."""
        snapshot = WORLD.random.choice(self._snapshots)
        self._server_loses(lambda: self._server.restore(snapshot))
        return "the server is restored"

    def flush(self) -> str:
        """The server is emptied."""
        other = WORLD.random.random() < 0.5
        self._server_loses(lambda: self._server.flush(other=other))
        return "the server is emptied"

    def lose_session(self) -> str:
        """One session is lost."""
        session = self._any_session()
        self._server_loses(lambda: self._server.lose_session(session))
        return f"the server loses {session}"

    def lose_pushes(self) -> str:
        """The last pushes are lost."""
        session = self._any_session()
        self._server_loses(lambda: self._server.lose_pushes(session))
        return f"the server loses the last pushes to {session}"

    def poison(self) -> str:
        """Something that can't be read is put into a session."""
        session = self._any_session()
        self._oracle.poisoned.add(session)
        counter = WORLD.random.choice((1, 1, 1 << 63))
        data = WORLD.random.choice(
            (
                b"\xff\xfe",
                b"",
                encode_change(Change("evil", counter, 1, 0, MAIN_BRANCH, APPEND, b"{not json")),
                encode_change(Change("evil", counter, 1, 0, MAIN_BRANCH, "unheard", b"{}")),
            )
        )
        self._server.push(self._server.store(), [Run(session, new_id(), True, f"evil{new_id()}", 1, [data])])
        return f"{session} is poisoned"

    def _server_loses(self, lose: Callable[[], None]) -> None:
        """The central store loses something.

        What it had of a session comes again in the same order, if each replica has it in the order in which it was,
        up to some place. That is not so when one has pushed what it does not know to be admitted, or when the store
        lost something before: then there are two histories, and neither is the first.
        """
        before = {name: session.head for name, session in self._server.sessions.items()}
        unsure = {session for session in self.universe.sessions if self._is_unsure(session)}
        with self._oracle.loss(self.universe.held):
            lose()
        for name, head in before.items():
            session = self._server.sessions.get(name)
            if session is None or session.head != head:
                if name in unsure or self._oracle.losses[name]:
                    self._oracle.reordered.add(name)
                self._oracle.losses[name] += 1

    def _is_unsure(self, session: str) -> bool:
        """Whether something may be pushed again that was in the log before: its sender has no answer, or it is late."""
        if self.universe.weather.later:
            return True
        for directory in self.universe.directories:
            head = directory.head(session)
            if head is not None and self.universe.watch.pending(directory, session, head) & self._server.admitted:
                return True
        return False

    # Directories.

    def copy_aside(self) -> str:
        """A backup of a directory."""
        directory = self._any_directory()
        self._part_turns(directory)
        self._copies.append((directory.number, directory.disk.copy()))
        return f"a backup of directory {directory.number} is made"

    def _part_turns(self, directory: Directory) -> None:
        """The copy ends the turns that are open, where they are."""
        for row in directory.disk.span(*span(TURN)):
            number = int.from_bytes(row[-8:], "big")
            for session in self.universe.sessions:
                self._oracle.turns.setdefault((session, number), Turn(directory.number)).parted = True

    def restore_directory(self) -> str:
        """A directory is restored from a backup."""
        if not self._copies:
            return self.copy_aside()
        number, disk = WORLD.random.choice(self._copies)
        found = [directory for directory in self.universe.directories if directory.number == number]
        if not found:
            return "a backup of a directory that is gone is left alone"
        with self._oracle.loss(self.universe.held):
            found[0].kill()
            found[0].disk = disk.copy()
            found[0].open_observer()
            self.universe.watch.forget(found[0])
            self._note_copy(found[0])
        self._perhaps_notice(found[0])
        return f"directory {number} is restored"

    def twin(self) -> str:
        """A directory is copied, and both are used."""
        if len(self.universe.directories) > 5:
            return "there are enough directories"
        directory = self._any_directory()
        self._part_turns(directory)
        other = self.universe.add_directory(directory.disk.copy())
        self._note_copy(other)
        self._perhaps_notice(other)
        return f"directory {directory.number} is copied: {other.number}"

    def _note_copy(self, copy: Directory) -> None:
        for session in self.universe.sessions:
            head = copy.head(session)
            if head is not None and self.universe.watch.pending(copy, session, head):
                self._oracle.shared.add(session)
        self._oracle.copied = True
        self._oracle.reordered.update(self._oracle.losses)
        self._oracle.confused |= self._oracle.given_up

    def _perhaps_notice(self, directory: Directory) -> None:
        """A copy may see that it is on another disk than before."""
        if WORLD.random.random() < 0.5:
            directory.identity.check_host(new_id())

    def delete_directory(self) -> str:
        """A replica is gone for ever."""
        if len(self.universe.directories) < 3:
            return "there are few directories"
        directory = self._any_directory()
        with self._oracle.loss(self.universe.held):
            directory.kill()
            self.universe.directories.remove(directory)
            if self.universe.lives is not None:
                self.universe.lives.forget(directory)
        return f"directory {directory.number} is deleted"

    def join(self) -> str:
        """A new replica, which knows nothing."""
        if len(self.universe.directories) > 5:
            return "there are enough directories"
        return f"directory {self.universe.add_directory(Disk()).number} joins"

    # Quarantine.

    def refuse(self) -> str:
        """Something is written that the central store won't take."""
        process, session = self.universe.any_process(), self._any_session()
        self.universe.call(process, session, self.universe.agents.append_refused)
        return f"directory {process.directory.number} {session} has something that is refused"

    def give_up(self) -> str:
        """Somebody gives up what stops a session."""
        directory, session = self._something_stopped()
        return f"directory {directory.number} {session} gives up: {self.give_up_in(directory, session)}"

    def _something_stopped(self) -> tuple[Directory, str]:
        stopped = [
            (directory, aside.session_id)
            for directory in self.universe.directories
            for aside in directory.quarantine.all(NAMESPACE).values()
        ]
        return WORLD.random.choice(stopped or [(self._any_directory(), self._any_session())])

    def give_up_in(self, directory: Directory, session: str) -> bool:
        """Give up what stops a session in one directory."""
        key = session_key(NAMESPACE, session)
        if directory.quarantine.get(key, "push") is not None:
            self._oracle.given_up.add(session)
            self._oracle.confused |= self._oracle.given_up if self._oracle.copied else set()
        done = False
        with self._oracle.loss(self.universe.held), suppress(ConfigurationError):  # Not everything can be given up.
            done = give_up(directory.log, directory.identity, directory.quarantine, key)
        if done:
            self.universe.watch.forget(directory, session)
            self.universe.watch.look(directory, self.universe.sessions)
        return done

    def retry(self) -> str:
        """Somebody lets a session be tried again."""
        directory, session = self._something_stopped()
        directory.identity.accept(NAMESPACE)
        done = directory.quarantine.retry(session_key(NAMESPACE, session))
        return f"directory {directory.number} {session} is tried again: {done}"


WEIGHTS: dict[Fault, int] = {
    Faults.crash: 12,
    Faults.restart: 3,
    Faults.step_clock: 2,
    Faults.long_pause: 1,
    Faults.step_server_clock: 1,
    Faults.snapshot: 3,
    Faults.restore: 3,
    Faults.flush: 2,
    Faults.lose_session: 2,
    Faults.lose_pushes: 3,
    Faults.poison: 1,
    Faults.copy_aside: 2,
    Faults.restore_directory: 3,
    Faults.twin: 2,
    Faults.delete_directory: 1,
    Faults.join: 2,
    Faults.refuse: 1,
    Faults.give_up: 3,
    Faults.retry: 3,
}

WHERE_LIVES_END: Final = frozenset(
    (
        Faults.crash,
        Faults.restart,
        Faults.step_clock,
        Faults.long_pause,
        Faults.delete_directory,
        Faults.join,
        Faults.poison,
        Faults.refuse,
        Faults.give_up,
        Faults.retry,
    )
)
"""In universes in which lives end: what is lost there, or copied, may come back after it ended, see docs/design.md."""
