"""What is sent to a server is written down beforehand: values travel beside it, and are never made part of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

import sync.central

FOLDER: Final = Path(str(files(sync.central)))
SENDERS: Final = ("execute", "fetch", "fetchrow", "fetchval", "prepare", "executemany", "cursor")


def calls(folder: str, *names: str) -> Iterator[ast.Call]:
    """The calls of functions and methods with these names."""
    for file in sorted((FOLDER / folder).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
                yield node


def test_sql_is_one_of_the_statements_in_the_files() -> None:
    found = [ast.unparse(call.args[0]) for call in calls("postgres", *SENDERS)]
    assert len(found) > 10
    assert [each for each in found if not re.fullmatch(r"(QUERIES|SCHEMA)\[('\w+'|name)\]", each)] == []


def test_sql_makes_sql_of_names_only_with_format() -> None:
    """`execute` in a function; what it is given, format quotes as an identifier."""
    for file in (FOLDER / "postgres").glob("*.sql"):
        text = file.read_text("utf-8")
        for made in re.findall(r"^ *execute\b(.*?);$", text, re.MULTILINE | re.DOTALL):
            assert re.match(r" format\(\s*('|\$policy\$)", made), made
            assert set(re.findall(r"%.*?[IsL]", made)) <= {"%I", "%1$I"}, made


def test_lua_is_one_of_the_scripts_in_the_files() -> None:
    made = list(calls("redis", "Script"))
    assert len(made) == 8
    assert all(isinstance(part, ast.Constant) for call in made for part in call.args)
    assert not list(calls("redis", "eval", "register_script"))
    for file in (FOLDER / "redis").glob("*.lua"):
        text = file.read_text("utf-8")
        assert not re.search(r"\b(load|loadstring|dofile|setfenv)\b", text)
        keys = re.findall(r"redis\.p?call\('[A-Z]+', ([^,)]+)", text)
        # Those in ARGV are channels of PUBLISH.
        allowed = r"KEYS\[\d\]|keys\[(\d|i)\]|key|\w+_key|channel|ARGV\[(3|11)\]"
        assert [key for key in keys if not re.fullmatch(allowed, key)] == []
