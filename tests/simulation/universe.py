"""One universe: what there is in it, and its steps, all of it chosen by the seed."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial

from localfirst.errors import LocalFirstError
from sync.site import Limits, Notice, Over, Stopped
from tests.simulation import jobs
from tests.simulation.agents import Action, Agents
from tests.simulation.holdings import held
from tests.simulation.ledger import Ledger
from tests.simulation.lives import Lives
from tests.simulation.network import Link, Weather
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.replica import Clock, Directory, Process
from tests.simulation.rows import Crash, Disk
from tests.simulation.server import Server
from tests.simulation.watch import Watch
from tests.simulation.world import WORLD


class Universe:
    """Replicas, their agents, and the central store."""

    def __init__(self, seed: int) -> None:
        WORLD.begin(seed)
        self.seed = seed
        self.trace: deque[str] = deque(maxlen=100_000)
        self.step = 0
        self.oracle = Oracle()
        self.ledger = Ledger()
        self.server = Server(self.ledger, self.oracle)
        self.lives = Lives(self.oracle, self.server, self.ledger) if seed % 3 == 1 else None
        self.watch = Watch(self.oracle, self.server, self.ledger, self.lives)
        self.agents = Agents(self.oracle, self._between, self.watch, branching=seed % 3 == 0, lives=self.lives)
        choose = WORLD.random
        self.sessions = [f"s{number}" for number in range(choose.choice((1, 1, 2, 2, 3, 4)))]
        self.limits = Limits(
            in_flight=1,  # Nobody drives tasks here; what overlaps is of different sessions.
            run_changes=choose.choice((2, 3, 5)),
            run_bytes=choose.choice((200, 400, 2000)),
            push_bytes=choose.choice((300, 3000)),
            pull_bytes=choose.choice((1, 300, 900)),
            batch_sessions=choose.choice((1, 2, 4)),
            tries=3,
            compact_after=choose.choice((4, 6, 12, 10_000)),
            compact_bytes=choose.choice((-2000, -2000, 0)),
            keep=choose.choice((0, 2, 4)),
        )
        self.ask = choose.random() < 0.15
        self.weather = _weather()
        self.crashes = choose.choice((0.0, 0.01, 0.03))
        """How likely a process that replicates dies at one of its next commits."""
        self.directories: list[Directory] = []
        self._made = 0
        for _ in range(choose.choice((2, 2, 3, 3, 4))):
            self.add_directory(Disk())

    # What there is.

    def add_directory(self, disk: Disk) -> Directory:
        """One more, on a machine whose clock may be years off."""
        number, self._made = self._made, self._made + 1
        skew = WORLD.random.choice((0.0, 0.0, 0.0, 3e8, -3e8, 5.0, -5.0))
        directory = Directory(number, disk, Clock(skew))
        self.directories.append(directory)
        return directory

    def process_of(self, directory: Directory) -> Process:
        """One that lives: a new one, if there is none, or (sometimes) a second."""
        processes = directory.processes
        if not processes or (len(processes) == 1 and WORLD.random.random() < 0.05):
            return self.start(directory)
        return WORLD.random.choice(processes)

    def start(self, directory: Directory) -> Process:
        """A new process."""
        link = Link(self.server, self.weather)
        told = partial(self._told, directory)
        return Process(directory, link, self.limits, told, ask=self.ask, reckons=self.lives is not None)

    def any_process(self) -> Process:
        """Of any directory."""
        return self.process_of(WORLD.random.choice(self.directories))

    def held(self) -> set[int]:
        """All that anybody has."""
        return held(self.server, self.directories, self.sessions, self.oracle)

    def say(self, text: str) -> None:
        """For the trace."""
        self.trace.append(f"{self.step:4} {text}")

    def _told(self, directory: Directory, notice: Notice) -> None:
        if isinstance(notice, Over) and self.lives is not None:
            self.say(f"directory {directory.number} {notice.session_id} is {notice.how}")
            self.watch.look(directory, self.sessions)
            self.lives.told(directory, notice.session_id)
        if isinstance(notice, Stopped):
            aside = notice.aside
            self.say(f"stopped: {aside.session_id} {aside.direction}: {aside.reason}")
            name = aside.session_id
            if not (name in self.oracle.poisoned or name in self.oracle.refused or (aside.lost and self.ask)):
                raise Violation(9, "sync goes on", f"{name} stopped ({aside.direction}): {aside.reason}")

    # Steps.

    def act(self) -> None:
        """An agent calls."""
        process = self.any_process()
        session = WORLD.random.choice(self.sessions)
        if WORLD.random.random() < 0.01:
            process.life.fuse, process.life.late = WORLD.random.randrange(3), WORLD.random.random() < 0.5
        self.call(process, session, self.agents.act)

    def call(self, process: Process, session: str, action: Action) -> None:
        """One call of an agent; the process may die in it."""
        done = "crash"
        try:
            done = action(process, session)
        except Crash:
            pass
        except LocalFirstError as error:
            where = f"directory {process.directory.number} session {session}"
            raise Violation(10, "what is on disk can be read", f"{where}: {type(error).__name__}: {error}") from error
        self.say(f"directory {process.directory.number} {process.name[:3]} {session} {done}")
        self.after(process)
        if self.lives is not None:
            self.lives.deleted()

    def _between(self, process: Process, session: str) -> None:
        others = [other for other in process.directory.processes if not other.view(session).lock.locked()]
        if others and WORLD.random.random() < 0.2:
            self.call(WORLD.random.choice(others), session, self.agents.act)

    def begin_job(self) -> None:
        """A process turns to the central store."""
        process = self.any_process()
        if process.task is None:
            name = WORLD.random.choices(("turn", "poll", "discover", "fetch", "flush"), (4, 8, 3, 2, 2))[0]
            if self.lives is not None:
                name = WORLD.random.choices((name, "alone", "evict"), (12, 1, 3))[0]
                name = "fetch" if process.wanted else name
            job = jobs.NAMED.get(name) or self._job_of_one(process, name)
            process.task = jobs.guarded(process, job)
            self.say(f"directory {process.directory.number} {process.name[:3]} begins {name}")

    def _job_of_one(self, process: Process, name: str) -> jobs.Job:
        session = WORLD.random.choice(sorted(process.wanted) or self.sessions)
        process.wanted.discard(session)
        return jobs.of_session(session) if name == "fetch" else jobs.evicting(session)

    def go_on(self) -> None:
        """Some process with a job goes on for a while."""
        busy = [each for directory in self.directories for each in directory.processes if each.task is not None]
        if not busy:
            self.begin_job()
            return
        process = WORLD.random.choice(busy)
        if WORLD.random.random() < self.crashes:
            process.life.fuse, process.life.late = WORLD.random.randrange(6), WORLD.random.random() < 0.5
        self.advance(process, WORLD.random.choice((1, 3, 10, 40)))

    def advance(self, process: Process, count: int) -> None:
        """Drive the job of a process over some awaits."""
        assert process.task is not None
        WORLD.machine = process.directory.clock
        process.directory.driven = process
        try:
            for _ in range(count):
                process.task.send(None)
                if self.lives is not None:
                    self.lives.note_ends(self.directories)
                    self.watch.look(process.directory, self.sessions)
        except StopIteration:
            process.task = None
        except Crash:
            self.say(f"directory {process.directory.number} {process.name[:3]} crashes")
        self.after(process)
        process.directory.driven = None

    def after(self, process: Process) -> None:
        """Bury the dead, and look at what was written."""
        if process.life.dead:
            process.kill()
        if self.lives is not None:
            self.lives.note_ends(self.directories)
        self.watch.look(process.directory, self.sessions)

    def peek(self) -> None:
        """Somebody looks, though nothing was written: time passes."""
        directory = WORLD.random.choice(self.directories)
        self.watch.check(directory, WORLD.random.choice(self.sessions))

    def arrive(self) -> None:
        """A request comes that nobody waits for any more."""
        if self.weather.later:
            request = self.weather.later.pop(WORLD.random.randrange(len(self.weather.later)))
            self.say("a late request arrives")
            if self.lives is not None and isinstance(request, partial):
                self.lives.late(data for run in request.args[0] if run.fresh for data in run.changes)
            with suppress(LocalFirstError):
                request()


def _weather() -> Weather:
    chance = WORLD.random.choice((0.0, 0.03, 0.1))
    return Weather(WORLD.random, chance, chance, chance / 2, chance / 2)
