"""Every example in a docstring runs. Those of Store and Session find a fresh `store` and `session` there."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import localfirst
import sync
from localfirst.handle import Handle
from localfirst.session import Session


def _modules() -> Iterator[str]:
    for package in (localfirst, sync):
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                yield module.name


def _examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in _modules() for test in finder.find(importlib.import_module(name)) if test.examples]
    return list({test.name: test for test in found}.values())


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # What the examples make goes with the test.
    with localfirst.open(tmp_path / "store") as store:
        example.globs |= {
            "asyncio": asyncio,
            "directory": tmp_path,
            "localfirst": localfirst,
            "session": store.session("user-123"),
            "store": store,
        }
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False)
    assert results.failed == 0


def test_what_users_call_most_has_an_example() -> None:
    named = {test.name for test in _examples()}
    for home in (Session, Handle):
        for name in vars(home):
            if not name.startswith("_") and name not in ("aflush", "arefresh"):
                assert f"{home.__module__}.{home.__name__}.{name}" in named, name
    for name in ("session", "sessions", "on", "flush", "refresh", "status", "close"):
        assert f"localfirst.store.Store.{name}" in named, name
