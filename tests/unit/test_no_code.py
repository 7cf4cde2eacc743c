"""No code comes from data: nothing that is read from a disk or a network is ever run."""

from __future__ import annotations

import ast
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import diskcache
import pytest
from diskcache.core import DBNAME, MODE_BINARY, MODE_PICKLE, MODE_RAW, MODE_TEXT

import localfirst
from localfirst.errors import ConfigurationError, LocalFirstError
from localfirst.rows import Rows
from localfirst.schema import checksum

ROOT = Path(localfirst.__file__).parent.parent
MODULES = sorted(path for package in ("localfirst", "sync") for path in (ROOT / package).rglob("*.py"))

BANNED_MODULES = """
    pickle _pickle cPickle cloudpickle dill joblib jsonpickle marshal shelve copyreg yaml ruamel code codeop runpy imp
    zipimport pydoc xmlrpc ctypes cffi
"""
BANNED_CALLS = "eval exec compile __import__ execfile globals breakpoint import_module find_spec"
BANNED_METHODS = """
    import_module load_module exec_module find_spec enable_load_extension load_extension system popen
    create_subprocess_shell interact runcode runsource
"""
ALLOWED = {
    "localfirst/__init__.py": {"uses globals", "uses import_module"},  # Names of ours, from a table in the source.
    "localfirst/testing/servers/binaries.py": {"uses find_spec", "uses .system"},  # `platform.system`, and where it is.
    "localfirst/testing/servers/postgres.py": {"imports ctypes"},  # A call of the system's.
}
CACHE = {"localfirst/schema.py": {"Cache", "Disk"}, "localfirst/connections.py": {"Cache"}}
"""What of diskcache, which imports pickle, is used where."""


def trouble(tree: ast.AST) -> Iterator[str]:
    """What in a module could run what it read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        else:
            names = []
        yield from (f"imports {name}" for name in names if set(BANNED_MODULES.split()) & set(name.split(".")))
        if isinstance(node, ast.Name) and node.id in BANNED_CALLS.split():
            yield f"uses {node.id}"
        if isinstance(node, ast.Attribute) and node.attr in BANNED_METHODS.split():
            yield f"uses .{node.attr}"
        if isinstance(node, ast.keyword) and node.arg == "shell":
            yield "may start a shell"


def attributes_of(tree: ast.AST, module: str) -> set[str]:
    """Which attributes of a module are used, and which names imported from it."""
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module]
    return found | {alias.name for node in imported for alias in node.names}


@pytest.mark.parametrize("module", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_nothing_that_runs_data_is_imported_or_called(module: Path) -> None:
    tree, name = ast.parse(module.read_text("utf-8")), module.relative_to(ROOT).as_posix()
    assert set(trouble(tree)) <= ALLOWED.get(name, set())
    assert attributes_of(tree, "diskcache") <= CACHE.get(name, set())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal",
        "from ruamel.yaml import YAML",
        "import yaml as y",
        "eval(data)",
        "run = exec",
        "__import__(name)",
        "importlib.import_module(name)",
        "connection.enable_load_extension(True)",
        "os.system(data)",
        "subprocess.run(data, shell=True)",
    ],
)
def test_the_ban_finds_what_is_banned(source: str) -> None:
    assert list(trouble(ast.parse(source)))


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[bytes]:
    """A live pickle; nobody may set it off."""
    trace = tmp_path / "executed"
    made = pickle.dumps(Bomb(trace))
    yield made
    assert not trace.exists()
    pickle.loads(made)
    assert trace.exists()


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """diskcache can reach no pickle, and tells if it tries."""

    class Reached:
        HIGHEST_PROTOCOL = pickle.HIGHEST_PROTOCOL

        def __getattr__(self, name: str) -> Any:
            pytest.fail(f"diskcache reached pickle.{name}")

    monkeypatch.setattr("diskcache.core.pickle", Reached())


def use(path: Path, central: str) -> None:
    """All that a store does with its disk."""
    with localfirst.open(path, remote=central, worker="none", size_limit=1_000_000) as store:
        session = store.session("s")
        session.add_message("user", "Hello")
        session.set("key", {"a": [1]})
        with session.turn():
            session.increment("n")
        session.branch(f"b{len(session.branches())}")
        session.pop_message()
        store.flush(20)
        store.refresh(20)
        list(store.sessions())
        store.quarantined()
        store.status()
        store.verify(20)
        session.export()
        store.delete("other")


def test_nothing_of_ours_reaches_the_pickle_of_diskcache(tmp_path: Path) -> None:
    """Why CVE-2025-69872 does not apply."""
    central = (tmp_path / "central").as_uri()
    use(tmp_path / "a", central)
    use(tmp_path / "a", central)
    use(tmp_path / "b", central)


KEYS = {
    "a session": b"h" + bytes(16),
    "a change": b"c" + bytes(16) + (1).to_bytes(8, "big"),
    "a page": b"p" + bytes(32),
    "quarantine": b"q" + bytes(16) + b"push",
    "a turn": b"t" + bytes(24),
    "the replica": b"s:replica",
    "the store": b"store",
}
FORGERIES: dict[str, Callable[[bytes, bytes], tuple[object, ...]]] = {
    "a pickled value": lambda key, bomb: (key, 1, MODE_PICKLE, bomb, None),
    "a pickled value with a checksum": lambda key, bomb: (key, 1, MODE_PICKLE, bomb, checksum(key, bomb)),
    "a raw value with a checksum": lambda key, bomb: (key, 1, MODE_RAW, bomb, checksum(key, bomb)),
    "a pickled key": lambda key, bomb: (bomb, 0, MODE_RAW, b"v", checksum(bomb, b"v")),
    "a key of ours that is no raw one": lambda key, bomb: (key, 0, MODE_RAW, bomb, checksum(key, bomb)),
    "a value in a file": lambda key, bomb: (key, 1, MODE_BINARY, None, None),
    "a text": lambda key, bomb: (key, 1, MODE_TEXT, "text", None),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("where", ["a", "central"])
def test_forged_rows_are_refused_unread(tmp_path: Path, bomb: bytes, where: str, forgery: str) -> None:
    """Also in a directory that is a central store."""
    central = (tmp_path / "central").as_uri()
    use(tmp_path / "a", central)
    database = tmp_path / "a" / "data" / DBNAME if where == "a" else tmp_path / "central" / DBNAME
    with closing(sqlite3.connect(database)) as connection, connection:
        for key in KEYS.values():
            row = FORGERIES[forgery](key, bomb)
            with suppress(sqlite3.IntegrityError):  # It is the same key again.
                connection.execute("DELETE FROM Cache WHERE key = ?", (key,))
                connection.execute("INSERT INTO Cache (key, raw, mode, value, tag) VALUES (?, ?, ?, ?, ?)", row)
    for _ in range(2):
        with suppress(LocalFirstError):  # And no other.
            use(tmp_path / "a", central)


SETTINGS = {
    "an option of the disk": ("disk_pickle_protocol", "x"),
    "an unknown option of the disk": ("disk_run", "x"),
    "a pragma": ("sqlite_journal_mode", "wal; DROP TABLE Cache"),
    "an unknown pragma": ("sqlite_writable_schema", 1),
    "an attribute": ("close", b"x"),
    "a pickle": ("localfirst_format", None),
}


@pytest.mark.parametrize("kept", [True, False], ids=["beside our format", "without our format"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_forged_settings_are_not_obeyed(tmp_path: Path, bomb: bytes, setting: str, kept: bool) -> None:
    """diskcache takes options from its table: attributes that it sets, pragmas that it puts together."""
    directory = tmp_path / "data"
    with closing(Rows(directory)):
        pass
    name, value = SETTINGS[setting]
    with closing(sqlite3.connect(directory / DBNAME)) as connection, connection:
        if not kept:
            connection.execute("DELETE FROM Settings WHERE key = 'localfirst_format'")
        connection.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (name, bomb if value is None else value))
    try:
        with closing(Rows(directory)) as rows:
            rows.insert(b"k", b"v")
            assert rows.get(b"k") == b"v"
    except ConfigurationError as error:
        told = str(error)
    else:
        told = ""
        assert name in diskcache.core.DEFAULT_SETTINGS or kept
    assert len(told) < 500
